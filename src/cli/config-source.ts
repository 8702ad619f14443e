import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isMap, isPair, isScalar, LineCounter, parseDocument, type YAMLMap } from 'yaml';
import { GrpoError } from '../errors.js';
import { ConfigError } from '../trainer/parse-config.js';
import { flagName } from './flags.js';

/** The options that hold paths, or lists of them, and how a value becomes absolute. */
export type PathOptions = Readonly<Record<string, (value: unknown, base: string) => unknown>>;

/** What a configuration file and flags say together; flags win. Knows where each value stands, for errors. */
export class ConfigSource {
  readonly values: Readonly<Record<string, unknown>>;
  readonly #file: ParsedFile | null;
  readonly #flags: Readonly<Record<string, unknown>>;

  /** Paths in the file are meant relative to the file, those in flags to the working folder. */
  constructor(file: ParsedFile | null, flags: Readonly<Record<string, unknown>>, paths: PathOptions) {
    this.#file = file;
    this.#flags = flags;
    const fromFile = file ? resolvePaths(file.values, file.base ?? dirname(file.path), paths) : {};
    this.values = { ...fromFile, ...resolvePaths(flags, '.', paths) };
  }

  /** Runs a check that throws `ConfigError`; says file, line and column, or flag, of each problem. */
  check<T>(parse: () => T): T {
    try {
      return parse();
    } catch (error) {
      throw this.#placed(error);
    }
  }

  async checkAsync<T>(parse: () => Promise<T>): Promise<T> {
    try {
      return await parse();
    } catch (error) {
      throw this.#placed(error);
    }
  }

  /** `problems` begin with the path of the option: `rewards[1].weight: must be a number`. */
  error(problems: readonly string[]): GrpoError {
    return new GrpoError('GRPO_CONFIG', problems.map((problem) => this.#locate(problem)).join('\n'));
  }

  #placed(error: unknown): unknown {
    return error instanceof ConfigError ? this.error(error.problems) : error;
  }

  #locate(problem: string): string {
    const path = problem.slice(0, problem.indexOf(':')).match(/[^.[\]]+/g) ?? [];
    const option = path[0] ?? '';
    if (option in this.#flags) return `${flagName(option)}: ${problem}`;
    if (this.#file) return `${this.#file.path}${positionOf(this.#file, path)}: ${problem}`;
    return problem;
  }
}

export interface ParsedFile {
  path: string;
  /** What paths in it are relative to. Default: its own folder. */
  base?: string;
  values: Record<string, unknown>;
  document: YAMLMap | null;
  lines: LineCounter;
}

/** Reads a YAML file whose top level is a map. */
export async function readConfigFile(path: string): Promise<ParsedFile> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    const reason = error.code === 'ENOENT' ? 'there is no such file' : error.message;
    throw new GrpoError('GRPO_CONFIG', `${path}: cannot read the configuration: ${reason}`, { cause: error });
  });
  return parseConfigText(text, path);
}

export function parseConfigText(text: string, path: string): ParsedFile {
  const lines = new LineCounter();
  const parsed = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  if (parsed.errors.length > 0) {
    const messages = parsed.errors.map((error) => {
      const { line, col } = lines.linePos(error.pos[0]);
      return `${path}:${line}:${col}: ${error.message}`;
    });
    throw new GrpoError('GRPO_CONFIG', messages.join('\n'));
  }
  const document = isMap(parsed.contents) ? parsed.contents : null;
  if (!document && parsed.contents !== null && parsed.toJS() !== null) {
    throw new GrpoError('GRPO_CONFIG', `${path}:1:1: expected options, each as "name: value"`);
  }
  return { path, values: (document ? parsed.toJS() : {}) as Record<string, unknown>, document, lines };
}

/** `:line:column` of the deepest part of the path that the file has; empty when it has none. */
function positionOf(file: ParsedFile, path: readonly string[]): string {
  let offset: number | undefined;
  for (let depth = 1; depth <= path.length && file.document; depth++) {
    const parent = depth === 1 ? file.document : file.document.getIn(path.slice(0, depth - 1), true);
    const last = path[depth - 1]!;
    const pair = isMap(parent) ? parent.items.find((item) => isPair(item) && keyOf(item.key) === last) : undefined;
    const node = pair ? pair.key : file.document.getIn(path.slice(0, depth), true);
    const range = (node as { range?: [number, number, number] | null } | undefined)?.range;
    if (!range) break;
    offset = range[0];
  }
  if (offset === undefined) return '';
  const { line, col } = file.lines.linePos(offset);
  return `:${line}:${col}`;
}

function keyOf(key: unknown): string {
  return String(isScalar(key) ? key.value : key);
}

function resolvePaths(values: Readonly<Record<string, unknown>>, base: string, paths: PathOptions) {
  const resolved = { ...values };
  for (const [option, toAbsolute] of Object.entries(paths)) {
    const value = values[option];
    if (value !== undefined)
      resolved[option] = Array.isArray(value) ? value.map((v) => toAbsolute(v, base)) : toAbsolute(value, base);
  }
  return resolved;
}
