import { type FileSystem, fileSystem } from '../platform/files.js';
import { readCheckpoint } from './checkpoint.js';

const folderName = /^checkpoint-(\d+)$/;
const partialName = /^checkpoint-\d+\.partial$/;

/** A checkpoint that was passed over, and why. */
export interface UnusableCheckpoint {
  folder: string;
  error: Error;
}

/**
 * The newest checkpoint of a run's folder in which every file is what was written; null without one. `onUnusable` hears of
 * the newer ones that were passed over.
 */
export async function latestCheckpoint(
  outputDir: string,
  { files = fileSystem(), onUnusable }: { files?: FileSystem; onUnusable?: (found: UnusableCheckpoint) => void } = {},
): Promise<string | null> {
  for (const step of (await stepsOf(outputDir, files)).toReversed()) {
    const folder = `${outputDir}/checkpoint-${step}`;
    try {
      await readCheckpoint(folder, files);
      return folder;
    } catch (error) {
      onUnusable?.({ folder, error: error as Error });
    }
  }
  return null;
}

/** Deletes the checkpoints before that of `step`, which was verified, but for the newest `keep` with that one counted. */
export async function pruneCheckpoints(
  outputDir: string,
  { step, keep }: { step: number; keep: number },
  files: FileSystem = fileSystem(),
): Promise<void> {
  // Later ones do not count: those of a run that went on from an older checkpoint are no replacement for its own.
  const own = (await stepsOf(outputDir, files)).filter((found) => found <= step);
  for (const old of own.slice(0, -keep)) {
    // Whoever is killed here leaves a folder that says it is not whole.
    const partial = `${outputDir}/checkpoint-${old}.partial`;
    await files.remove(partial);
    await files.rename(`${outputDir}/checkpoint-${old}`, partial);
    await files.remove(partial);
  }
}

/** Deletes what a killed run had begun to write, or to delete. No other process may be writing. */
export async function removePartialCheckpoints(outputDir: string, files: FileSystem = fileSystem()): Promise<void> {
  if (!(await files.exists(outputDir))) return;
  for (const name of await files.list(outputDir)) {
    if (partialName.test(name)) await files.remove(`${outputDir}/${name}`);
  }
}

/** The steps that have a checkpoint, in order. */
async function stepsOf(outputDir: string, files: FileSystem): Promise<number[]> {
  if (!(await files.exists(outputDir))) return [];
  const steps = (await files.list(outputDir)).flatMap((name) => folderName.exec(name)?.[1] ?? []);
  return steps.map(Number).toSorted((a, b) => a - b);
}
