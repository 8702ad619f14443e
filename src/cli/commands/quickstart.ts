import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { openDevice } from '../../backend/open-device.js';
import { CausalLM } from '../../models/causal-lm.js';
import { nodeFileSystem } from '../../platform/node.js';
import { type Evaluation, evaluateGreedily } from '../../recipes/quickstart/evaluate.js';
import { type QuickstartSize, quickstartSizes } from '../../recipes/quickstart/settings.js';
import {
  createData,
  createRewards,
  createTokenizer,
  type QuickstartData,
  teacher,
} from '../../recipes/quickstart/task.js';
import { ConsoleTracker, formatDuration } from '../../tracking/console.js';
import { GRPOTrainer } from '../../trainer/grpo-trainer.js';
import { SFTTrainer } from '../../trainer/sft-trainer.js';
import { Interrupt, interruptedExitCode } from '../interrupt.js';
import { RunFolder } from '../run-folder.js';

interface QuickstartFlags {
  device: string;
  out?: string;
  /** Default: `small` where WebGPU's shaders are computed on the processor. */
  size?: keyof typeof quickstartSizes;
  steps?: number;
  cloneSteps?: number;
  seed: number;
  threads?: number;
}

/** What both stages share. */
interface Stage {
  size: QuickstartSize;
  policy: CausalLM;
  data: QuickstartData;
  folder: RunFolder;
  seed: number;
  signal: AbortSignal;
  progress: ConsoleTracker;
}

/** The model before, during and after the cloning. */
interface Clone {
  start: Evaluation;
  /** null when the cloning was shorter. */
  plateau: Evaluation | null;
  end: Evaluation;
}

/** Clones a small model from a flawed teacher, then trains it with GRPO, and prints what each stage gave. */
export async function quickstart(flags: QuickstartFlags): Promise<number> {
  const begun = performance.now();
  const progress = new ConsoleTracker();
  const interrupt = new Interrupt(() => progress.print('Ending after this step. Ctrl-C again ends at once.'));
  const { signal } = interrupt;
  const device = await openDevice(flags.device, { threads: flags.threads });
  try {
    const { seed } = flags;
    const folder = await RunFolder.open(flags.out ?? freeFolder(), { resume: false });
    const sizeName = flags.size ?? (device.backend.details.computesOn === 'the processor' ? 'small' : 'full');
    const size: QuickstartSize = quickstartSizes[sizeName];
    const cloneSteps = flags.cloneSteps ?? size.clone.maxSteps;
    const data = createData(seed);
    data.heldOut.length = Math.min(data.heldOut.length, size.heldOut);
    await writeData(folder, data);
    using policy = CausalLM.create(size.modelShape, createTokenizer(), { device, seed });
    const stage = { size, policy, data, folder, seed, signal, progress };
    progress.print(`Device: ${device.name} (${device.why})`);
    progress.print(`Folder: ${folder.show()}`);
    progress.print(`Size:   ${sizeName}`);
    progress.print(`Model:  ${millions(policy.parameters.count)} weights, fresh; task: ${data.train[0]!.prompt}?`);

    const clone = await cloneTeacher(stage, cloneSteps);
    if (signal.aborted) return interrupted(progress);
    const trained = await trainWithGRPO(stage, flags.steps ?? size.grpo.maxSteps);
    if (signal.aborted) return interrupted(progress);

    const example = data.heldOut.findIndex((_, i) => clone.end.completions[i] !== trained.completions[i]);
    const { prompt } = data.heldOut[Math.max(0, example)]!;
    const seconds = (performance.now() - begun) / 1000;
    await progress.finish();
    process.stdout.write(
      [
        '',
        `Greedy answers to ${data.heldOut.length} held-out sums`,
        '                       correct   format',
        row('random weights', clone.start),
        ...(clone.plateau ? [row(`cloned, ${size.plateauStep} steps`, clone.plateau)] : []),
        row(`cloned, ${cloneSteps} steps`, clone.end),
        row('after GRPO', trained),
        '',
        `The clone stops there because its teacher forgets ${percent(teacher.forgottenCarries)} of all carries; the rest is GRPO's.`,
        '',
        `  ${prompt}`,
        `  cloned      ${clone.end.completions[Math.max(0, example)]}`,
        `  after GRPO  ${trained.completions[Math.max(0, example)]}`,
        '',
        `Report: ${folder.report}`,
        `Model:  ${folder.show('model')}   (try: grpo generate --model ${folder.show('model')} --prompt "27+38=" --temperature 0)`,
        `Time:   ${formatDuration(seconds)}`,
        '',
      ].join('\n'),
    );
    return 0;
  } finally {
    interrupt.dispose();
    device.close();
  }
}

async function cloneTeacher(stage: Stage, maxSteps: number): Promise<Clone> {
  const { size, policy, data, seed, signal } = stage;
  const progress = new ConsoleTracker({ label: 'clone' });
  const folder = await RunFolder.open(join(stage.folder.path, 'clone'), { resume: false });
  const options = { ...size.clone, maxSteps, seed, outputDir: folder.path };
  await folder.writeConfig(options);
  const start = await evaluateGreedily(policy, data.heldOut);
  let plateau: Evaluation | null = null;
  const tracker = [progress, ...folder.trackers((error) => progress.print(String(error)))];
  const trainer = await SFTTrainer.create({ ...options, policy, dataset: data.demonstrations, tracker, signal });
  try {
    for await (const { step } of trainer) {
      if (step === size.plateauStep) plateau = await evaluateGreedily(policy, data.heldOut);
    }
  } finally {
    await trainer.close();
  }
  await policy.save(join(folder.path, 'model'));
  return { start, plateau, end: await evaluateGreedily(policy, data.heldOut) };
}

async function trainWithGRPO(
  { size, policy, data, folder, seed, signal }: Stage,
  maxSteps: number,
): Promise<Evaluation> {
  const progress = new ConsoleTracker({ label: 'grpo' });
  const options = { ...size.grpo, maxSteps, seed, outputDir: folder.path };
  await folder.writeConfig(options);
  const tracker = [progress, ...folder.trackers((error) => progress.print(String(error)))];
  const trainer = await GRPOTrainer.create({
    ...options,
    policy,
    dataset: data.train,
    evalDataset: data.heldOut,
    rewards: createRewards(),
    tracker,
    signal,
  });
  try {
    await trainer.train();
  } finally {
    await trainer.close();
  }
  await policy.save(join(folder.path, 'model'));
  return evaluateGreedily(policy, data.heldOut);
}

/** The data as JSONL, to look at and to use with `grpo sft` and `grpo train`. */
async function writeData(folder: RunFolder, data: QuickstartData): Promise<void> {
  const path = join(folder.path, 'data');
  await nodeFileSystem.makeFolder(path);
  const files = {
    'demonstrations.jsonl': data.demonstrations,
    'train.jsonl': data.train,
    'held-out.jsonl': data.heldOut,
  };
  for (const [name, rows] of Object.entries(files)) {
    await nodeFileSystem.writeAtomic(join(path, name), rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  }
}

/** `runs/quickstart`, or the first free name with a number behind it. */
function freeFolder(): string {
  const name = (n: number) => join('runs', n === 1 ? 'quickstart' : `quickstart-${n}`);
  let n = 1;
  while (existsSync(name(n))) n++;
  return name(n);
}

async function interrupted(progress: ConsoleTracker): Promise<number> {
  await progress.finish();
  progress.print('Ended before the last step. The quickstart takes minutes and begins anew each time.');
  return interruptedExitCode;
}

function row(name: string, { correct, format }: Evaluation): string {
  return `${name.padEnd(22)}${percent(correct).padStart(8)}${percent(format).padStart(9)}`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share === 0 || share === 1 || share === teacher.forgottenCarries ? 0 : 1)} %`;
}

function millions(count: number): string {
  return `${(count / 1e6).toFixed(2)} million`;
}
