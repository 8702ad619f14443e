import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { GrpoError } from '../errors.js';
import { nodeFileSystem } from '../platform/node.js';
import { readJsonObject } from '../platform/read-json.js';

export const responsesFile = 'responses.jsonl';
export const verdictsFile = 'verdicts.jsonl';
export const summaryFile = 'summary.json';
const runFile = 'run.json';

/** Everything that decides what a run's answers and verdicts are. Never a key or a password. */
export type RunIdentity = Readonly<Record<string, unknown>>;

/**
 * The folder of an evaluation: `run.json` (what it is about), `responses.jsonl`, `verdicts.jsonl` (of a judge),
 * `summary.json`, `report.html`. A folder belongs to one configuration: another one is refused, the same one continues.
 */
export class EvalFolder {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  static async open(path: string, identity: RunIdentity): Promise<EvalFolder> {
    const folder = new EvalFolder(path);
    await nodeFileSystem.makeFolder(path);
    const file = folder.file(runFile);
    if (await nodeFileSystem.exists(file)) {
      // Through JSON, where what is undefined is absent.
      const changes = differences(await readJsonObject(file, nodeFileSystem), JSON.parse(JSON.stringify(identity)));
      if (changes.length === 0) return folder;
      const lines = changes.map((change) => `  ${change}`).join('\n');
      const message = `${path} holds an evaluation with another configuration:\n${lines}\nGive another --out, or what was given then.`;
      throw new GrpoError('GRPO_CONFIG', message);
    }
    for (const name of [responsesFile, verdictsFile]) {
      if (!(await nodeFileSystem.exists(folder.file(name)))) continue;
      throw new GrpoError('GRPO_CONFIG', `${path} has a ${name} but no ${runFile}. Give another --out.`);
    }
    await nodeFileSystem.writeAtomic(file, `${JSON.stringify(identity, null, 2)}\n`);
    return folder;
  }

  file(name: string): string {
    return join(this.path, name);
  }

  async writeJson(name: string, value: unknown): Promise<void> {
    await nodeFileSystem.writeAtomic(this.file(name), `${JSON.stringify(value, null, 2)}\n`);
  }

  async writeJsonl(name: string, rows: readonly object[]): Promise<void> {
    await nodeFileSystem.writeAtomic(this.file(name), rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  }
}

/** Tells two contents apart. */
export function fingerprint(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

/** `path: was …, is …` of each value that differs. */
function differences(before: unknown, now: unknown, path = ''): string[] {
  if (isObject(before) && isObject(now)) {
    const names = [...new Set([...Object.keys(before), ...Object.keys(now)])];
    return names.flatMap((name) => differences(before[name], now[name], path === '' ? name : `${path}.${name}`));
  }
  const show = (value: unknown) => JSON.stringify(value) ?? 'absent';
  return show(before) === show(now) ? [] : [`${path}: was ${show(before)}, is ${show(now)}`];
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
