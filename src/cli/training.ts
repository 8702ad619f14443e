import { existsSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { z } from 'zod';
import type { ProcessGroup } from '../distributed/process-group.js';
import { GrpoError } from '../errors.js';
import type { ActivationDType } from '../models/activations.js';
import { CausalLM } from '../models/causal-lm.js';
import type { Device } from '../tensor.js';
import { ConsoleTracker } from '../tracking/console.js';
import type { Tracker } from '../tracking/tracker.js';
import { latestCheckpoint, removePartialCheckpoints } from '../trainer/checkpoint-folders.js';
import type { GRPOConfig, SFTConfig } from '../trainer/config.js';
import { parseConfig } from '../trainer/parse-config.js';
import type { StepReport, Trainer } from '../trainer/trainer.js';
import { ConfigSource, type ParsedFile, readConfigFile } from './config-source.js';
import { flagValues } from './flags.js';
import { Interrupt, interruptedExitCode } from './interrupt.js';
import { readInput } from './model.js';
import { type RankOptions, Ranks } from './ranks.js';
import { pathOptions, withLists } from './run-config.js';
import { configFile, defaultOutputDir, RunFolder } from './run-folder.js';

/** What the command line said: a configuration that was checked option by option, and how to go on. */
export interface RunRequest<Run> {
  command: 'train' | 'sft';
  source: ConfigSource;
  run: Run & { outputDir: string };
  /** A checkpoint, `true` for the latest one, `auto` for the latest if there is one, `false` for a new run. */
  resume: string | boolean;
}

type AnyRun = RankOptions & { dtype: 'f32' | 'bf16'; activations: ActivationDType | null; model: string } & Record<
    string,
    unknown
  >;

export async function readRequest<Schema extends z.ZodObject>(
  command: 'train' | 'sft',
  schema: Schema,
  configPath: string | undefined,
  flags: Readonly<Record<string, unknown>>,
): Promise<RunRequest<z.output<Schema>>> {
  const { resume = false, ...given } = flags;
  const file = configPath === undefined ? null : await readConfig(configPath);
  const source = new ConfigSource(file, flagValues(given), pathOptions);
  const run = source.check(() => parseConfig(schema, withLists(source.values))) as z.output<Schema>;
  const outputDir = (run.outputDir as string | null) ?? defaultOutputDir(configPath, command);
  return { command, source, run: { ...run, outputDir }, resume: resume as string | boolean };
}

/** A file, or by its name without ending a recipe of this package, whose paths are then those of the working folder. */
async function readConfig(path: string): Promise<ParsedFile> {
  const recipe = fileURLToPath(new URL(`../../recipes/${path}.yaml`, import.meta.url));
  const isRecipe = /^[\w-]+\/[\w.-]+$/.test(path) && !existsSync(path) && existsSync(recipe);
  if (!isRecipe) return readConfigFile(path);
  return { ...(await readConfigFile(recipe)), base: resolve('recipes', dirname(path)) };
}

/** The part of a run's options that another schema has. */
export function pickOptions(schema: z.ZodObject, run: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.keys(schema.shape).map((name) => [name, run[name]]));
}

/** The rows of all files, in order. */
export async function readRows<Row>(
  paths: readonly string[],
  parse: (text: string, file: string) => Row[],
): Promise<Row[]> {
  const files = await Promise.all(paths.map(async (path) => parse(await readInput(path), path)));
  return files.flat();
}

/**
 * Carries a run through: opens device and folder, makes the trainer, trains, saves. A first Ctrl-C ends it after the
 * step in progress, with a checkpoint. `release` frees in the end, while the device is open, what `createTrainer` has
 * opened. Of several ranks the first prints and writes the folder. Returns the exit code.
 */
export async function carryOut<Config extends GRPOConfig | SFTConfig>(
  request: RunRequest<AnyRun>,
  createTrainer: (parts: TrainerParts) => Promise<Trainer<Config>>,
  release: () => Promise<void> = async () => {},
): Promise<number> {
  const ranks = await Ranks.join(request.run);
  try {
    return await runOnRank(request, ranks, createTrainer, release);
  } finally {
    await ranks.close();
  }
}

/** What the trainer of a rank is made from. */
export interface TrainerParts {
  policy: CausalLM;
  tracker: Tracker[];
  signal: AbortSignal;
  processGroup: ProcessGroup | undefined;
}

async function runOnRank<Config extends GRPOConfig | SFTConfig>(
  { command, run, resume }: RunRequest<AnyRun>,
  ranks: Ranks,
  createTrainer: (parts: TrainerParts) => Promise<Trainer<Config>>,
  release: () => Promise<void>,
): Promise<number> {
  const progress = new ConsoleTracker();
  const print = (text: string) => {
    if (ranks.first) progress.print(text);
  };
  const goesOn = resume !== false || ranks.restarted;
  const onError = (error: unknown) => print(`Recording failed: ${(error as Error).message}`);
  const interrupt = new Interrupt(() => print('Finishing this step, then saving. Ctrl-C again ends at once.'));
  let device: Device | undefined;
  let trainer: Trainer<Config> | undefined;
  try {
    const folder = ranks.first ? await RunFolder.open(run.outputDir, { resume: goesOn }) : null;
    const checkpoint = await ranks.fromFirst(() => checkpointToResume(run.outputDir, resume, ranks.restarted, print));
    await folder?.writeConfig(run);
    if (folder) print(`Run folder: ${folder.show()}`);
    if (ranks.description) print(ranks.description);
    device = await ranks.openDevice(run);
    print(`Device: ${device.name} (${device.why})`);
    const processGroup = await ranks.openGroup(device, run);
    const { dtype, activations } = run;
    const policy = await CausalLM.load(run.model, { device, dtype, activations });
    const tracker = folder ? [progress, ...folder.trackers(onError)] : [];
    trainer = await createTrainer({ policy, tracker, signal: interrupt.signal, processGroup });
    trainer.onActivity = (activity) => ranks.report(activity);
    if (checkpoint) {
      await trainer.resume(checkpoint);
      print(`Resumed from ${checkpoint}`);
    }
    if (goesOn) await folder?.forgetAfter(trainer.globalStep);
    const failures = new FailureNotices(print);
    for await (const report of trainer) failures.show(report);
    if (trainer.stopped) {
      const last = trainer.lastCheckpoint;
      const saved = last?.step === trainer.globalStep ? last.folder : await trainer.save();
      await ranks.leave();
      print(`Stopped after step ${trainer.globalStep} of ${trainer.totalSteps}. Checkpoint: ${saved}`);
      if (folder) print(`Resume with: grpo ${command} ${folder.show(configFile)} --resume`);
      return interruptedExitCode;
    }
    if (folder) await policy.save(`${folder.path}/model`);
    await ranks.leave();
    if (folder) {
      print(`Model:  ${folder.show('model')}`);
      print(`Report: ${folder.report}`);
    }
    return 0;
  } catch (error) {
    throw await ranks.failed(error);
  } finally {
    interrupt.dispose();
    try {
      await trainer?.close();
      await release();
    } finally {
      device?.close();
    }
  }
}

/** null: from the beginning. A run that the launcher starts again may have no checkpoint yet. */
async function checkpointToResume(
  outputDir: string,
  resume: string | boolean,
  restarted: boolean,
  print: (text: string) => void,
): Promise<string | null> {
  const given = typeof resume === 'string' && resume !== 'auto' ? resume : null;
  if (!restarted && resume === false) return null;
  if (!restarted && given) return given;
  await removePartialCheckpoints(outputDir);
  const latest = await latestCheckpoint(outputDir, {
    onUnusable: ({ folder, error }) => print(`Passing over ${folder}, which cannot be used: ${error.message}`),
  });
  if (latest || restarted || resume === 'auto') return latest ?? given;
  throw new GrpoError('GRPO_CONFIG', `--resume: ${outputDir} has no checkpoint`);
}

/** Tells the first failure of each reward and kind; the metrics count the rest. */
class FailureNotices {
  readonly #print: (text: string) => void;
  readonly #told = new Set<string>();

  constructor(print: (text: string) => void) {
    this.#print = print;
  }

  show({ step, rewardFailures }: StepReport): void {
    for (const { reward, reason, message } of rewardFailures) {
      const key = `${reward} ${reason}`;
      if (this.#told.has(key)) continue;
      this.#told.add(key);
      this.#print(`step ${step}: the reward ${reward} could not score a batch (${reason}): ${message}`);
    }
  }
}
