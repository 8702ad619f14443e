/**
 * RAIF's recipe in small, on the CPU: one start, four runs (plain GRPO, with contrast, with cloning, with both), and
 * their held-out curves in one report.
 *
 *     npx tsx examples/raif/worked-example.ts [folder] [seed]
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import {
  CausalLM,
  type Device,
  type GRPOOptions,
  GRPOTrainer,
  JsonlTracker,
  openDevice,
  raifRewards,
  SFTTrainer,
  scoreBatch,
  writeReport,
} from 'grpo-native';
import { createTask, createTokenizer, directPrompts, rowsOf, type TaskData } from './task.js';

export interface Settings {
  seed: number;
  startSteps: number;
  steps: number;
  evalSteps: number;
  heldOut: number;
  /** Completions of an update. */
  batch: number;
}

export const fullSettings: Settings = { seed: 1, startSteps: 900, steps: 60, evalSteps: 10, heldOut: 128, batch: 96 };

const contrast = { share: 0.25, score: 'answer', met: 'constraints_met' } as const;
const cloning = { sftCoefficient: 0.5, sftBatchSize: 16 };

/** What sets the runs apart. */
export const variants = {
  plain: {},
  contrast: { contrast },
  cloning,
  both: { contrast, ...cloning },
} satisfies Record<string, GRPOOptions>;

const maxCompletionLength = 32;

export interface Curve {
  run: keyof typeof variants;
  /** Held-out share of rules that are followed, by step. */
  points: { step: number; accuracy: number }[];
}

/** Trains the start and the four runs in `folder`; the report is `report.html` there. */
export async function workedExample(device: Device, folder: string, settings: Settings): Promise<Curve[]> {
  const { seed } = settings;
  const task = createTask(seed, { train: 768, heldOut: settings.heldOut, start: 12_000, experts: 192 });
  const shape = {
    hiddenSize: 96,
    intermediateSize: 256,
    numHiddenLayers: 3,
    numAttentionHeads: 4,
    numKeyValueHeads: 2,
    maxPositionEmbeddings: 128,
    tieWordEmbeddings: true,
  };
  using start = CausalLM.create(shape, createTokenizer(), { device, seed });
  await learnFormat(start, task, settings);
  const train = rowsOf(task.train, await countWithoutThinking(start, task));
  const heldOut = rowsOf(task.heldOut);

  const curves: Curve[] = [];
  for (const run of Object.keys(variants) as Curve['run'][]) {
    const runFolder = join(folder, run);
    await mkdir(runFolder, { recursive: true });
    using policy = start.clone({ frozen: false });
    await using trainer = await GRPOTrainer.create({
      policy,
      dataset: train,
      evalDataset: heldOut,
      demonstrations: task.experts,
      rewards: raifRewards(),
      tracker: new JsonlTracker(runFolder, console.warn),
      ...variants[run],
      seed,
      maxSteps: settings.steps,
      numGenerations: 8,
      perDeviceTrainBatchSize: settings.batch,
      maxCompletionLength,
      learningRate: 2e-4,
      lrSchedulerType: 'constant',
      lossType: 'grpo',
      evalOnStart: true,
      evalSteps: settings.evalSteps,
      perDeviceEvalBatchSize: 128,
    });
    const points = [{ step: 0, accuracy: accuracyOf(await trainer.evaluate()) }];
    for await (const { step, metrics } of trainer) {
      if ('eval/rewards/accuracy/mean' in metrics) points.push({ step, accuracy: accuracyOf(metrics) });
    }
    await trainer.close();
    await writeReport(runFolder);
    curves.push({ run, points });
    console.log(`${run.padEnd(9)} ${points.map(({ accuracy }) => (100 * accuracy).toFixed(1)).join(' ')}`);
  }
  await writeSummary(folder, curves);
  return curves;
}

/** Behaviour cloning of the flawed teacher: the form, and about two rules in three. */
async function learnFormat(policy: CausalLM, { start }: TaskData, { startSteps, seed }: Settings): Promise<void> {
  await using trainer = await SFTTrainer.create({
    policy,
    dataset: start,
    maxSteps: startSteps,
    perDeviceTrainBatchSize: 64,
    learningRate: 3e-3,
    lrSchedulerType: 'cosine',
    warmupSteps: Math.ceil(startSteps / 10),
    seed,
  });
  await trainer.train();
}

/** The reference of the recipe: how many rules the start follows without thinking. */
async function countWithoutThinking(policy: CausalLM, { train }: TaskData): Promise<number[]> {
  const records = rowsOf(train);
  const prompts = directPrompts(records);
  const groups = await policy.generate(prompts, { maxNewTokens: maxCompletionLength, temperature: 0 });
  const samples = groups.map(([completion], i) => {
    const { text, completionIds, stopReason } = completion!;
    return { record: records[i]!, prompt: prompts[i]!, completion: text, completionIds, stopReason };
  });
  const { scores } = await scoreBatch(raifRewards(), samples);
  return scores.constraints_met!.map((met) => met ?? 0);
}

function accuracyOf(metrics: Readonly<Record<string, number>>): number {
  return metrics['eval/rewards/accuracy/mean']!;
}

/** All curves in one report. */
async function writeSummary(folder: string, curves: readonly Curve[]): Promise<void> {
  const steps = curves[0]!.points.map(({ step }) => step);
  const rows = steps.map((step, i) => ({
    step,
    ...Object.fromEntries(curves.map(({ run, points }) => [`runs/${run}/accuracy`, points[i]!.accuracy])),
  }));
  await writeFile(join(folder, 'metrics.jsonl'), rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  await writeReport(folder);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const folder = process.argv[2] ?? 'runs/raif-worked-example';
  const device = await openDevice('cpu');
  await workedExample(device, folder, { ...fullSettings, seed: Number(process.argv[3] ?? fullSettings.seed) });
  console.log(`Report: ${join(folder, 'report.html')}`);
  device.close();
}
