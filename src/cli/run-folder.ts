import { mkdir, stat } from 'node:fs/promises';
import { basename, extname, join, relative, resolve } from 'node:path';
import { stringify } from 'yaml';
import { GrpoError } from '../errors.js';
import { nodeFileSystem } from '../platform/node.js';
import { completionsFile, JsonlTracker, metricsFile } from '../tracking/jsonl.js';
import { truncateJsonLines } from '../tracking/line-file.js';
import { ReportTracker, reportFile } from '../tracking/report/report.js';
import { TensorBoardTracker } from '../tracking/tensorboard.js';
import type { Tracker } from '../tracking/tracker.js';

export const configFile = 'config.yaml';

/**
 * The folder of a run: `config.yaml` (all options, absolute paths), `metrics.jsonl`, `completions.jsonl`, `tensorboard/`,
 * `checkpoint-<step>/`, `model/` (the weights at the end) and `report.html`.
 */
export class RunFolder {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /** A new run needs a folder without one; a resumed run needs a folder with one. */
  static async open(path: string, { resume }: { resume: boolean }): Promise<RunFolder> {
    const holdsRun = await stat(join(path, metricsFile)).then(
      () => true,
      () => false,
    );
    if (holdsRun && !resume) {
      const message = `${shown(path)} already holds a run. Continue it with --resume, or give another --output-dir.`;
      throw new GrpoError('GRPO_CONFIG', message);
    }
    await mkdir(join(path, 'tensorboard'), { recursive: true });
    return new RunFolder(path);
  }

  async writeConfig(config: object): Promise<void> {
    await nodeFileSystem.writeAtomic(join(this.path, configFile), stringify(config));
  }

  /** Takes away what a killed process recorded after the checkpoint that the run resumes from. */
  async forgetAfter(step: number): Promise<void> {
    for (const name of [metricsFile, completionsFile]) await truncateJsonLines(join(this.path, name), step);
  }

  /** Everything that records a run on disk; the report comes last, since it reads what the others wrote. */
  trackers(onError: (error: unknown) => void): Tracker[] {
    return [
      new JsonlTracker(this.path, onError),
      new TensorBoardTracker(join(this.path, 'tensorboard'), onError),
      new ReportTracker(this.path),
    ];
  }

  /** A path inside the folder, as a person in the working folder would write it. */
  show(...parts: string[]): string {
    return shown(join(this.path, ...parts));
  }

  get report(): string {
    return this.show(reportFile);
  }
}

/** `runs/<name of the configuration file>` when the configuration says nothing. */
export function defaultOutputDir(config: string | undefined, command: string): string {
  return resolve('runs', config ? basename(config, extname(config)) : command);
}

function shown(path: string): string {
  const short = relative('.', path);
  return short.startsWith('..') ? path : short;
}
