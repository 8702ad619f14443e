/** GRPO updates and sampling of one model, ours and PyTorch's, compared and then timed in turn. */
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { CausalLM, type Device, GRPOTrainer, NativeEngine, type Rollout, Tokenizer } from '../../src/index.js';
import { commandOf, median, today, writeResults } from '../common/report.js';

export interface TrainingOptions {
  python: string;
  /** Without it the two sides are compared, and nothing is measured or written. */
  timed: boolean;
  shapes: readonly string[];
  budgetSeconds: number;
}

/** A model, as config.json has it, and what an update and a sampling are made of. */
interface Problem {
  config: Record<string, number>;
  dtype: 'f32' | 'bf16';
  sequences: number;
  microBatch: number;
  prompt: number;
  completion: number;
  batch: number;
  newTokens: number;
}

const qwen = { vocab_size: 151_936, num_key_value_heads: 2, rms_norm_eps: 1e-6, max_position_embeddings: 32_768 };
// Prompts are short, since a group's is computed once here and eight times there.
const large = { sequences: 16, microBatch: 4, prompt: 32, completion: 992, batch: 64, newTokens: 128 };
const tiny = {
  config: {
    ...{ vocab_size: 331, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4 },
    ...{ num_key_value_heads: 2, rms_norm_eps: 1e-6, max_position_embeddings: 64 },
  },
  ...{ sequences: 8, microBatch: 4, prompt: 3, completion: 7, batch: 4, newTokens: 5 },
};
const problems: Record<string, Problem> = {
  '0.5b': {
    config: { ...qwen, hidden_size: 896, intermediate_size: 4864, num_hidden_layers: 24, num_attention_heads: 14 },
    dtype: 'bf16',
    ...large,
  },
  '1.5b': {
    config: { ...qwen, hidden_size: 1536, intermediate_size: 8960, num_hidden_layers: 28, num_attention_heads: 12 },
    dtype: 'bf16',
    ...large,
  },
  'tiny-f32': { ...tiny, dtype: 'f32' },
  'tiny-bf16': { ...tiny, dtype: 'bf16' },
};
/** Most that log-probs, loss and norm of the gradients may be apart from PyTorch's, as a share. */
const tolerances = { f32: { logProbs: 1e-4, gradNorm: 1e-4 }, bf16: { logProbs: 5e-2, gradNorm: 5e-2 } };
const mostRounds = 5;

interface Timing {
  seconds: { ours: number; pytorch: number };
  all: { ours: number[]; pytorch: number[] };
}

interface Row {
  shape: string;
  weights: number;
  /** dtype of our activations. */
  activations: string;
  problem: Problem;
  /** How far the sides were apart, and a wrong answer from ours. */
  apart: { logProbs: number; gradNorm: number; wrong: number };
  update?: Timing & { tokens: number; flops: number };
  decode?: Timing & { tokens: number; bytesAStep: number };
}

// ---- PyTorch --------------------------------------------------------------------------------------------------------

type Answer = Record<string, number> & { logProbs?: number[]; error?: string };

async function openPyTorch(python: string, device: string) {
  const args = ['bench/peers/training_torch.py', '--device', device];
  const child = spawn(python, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk.toString();
  });
  const failed = new Promise<never>((_, reject) => {
    child.on('error', (error) => reject(new Error(`${python} cannot be started: ${error.message}`)));
  });
  failed.catch(() => {});
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await Promise.race([lines.next(), failed]);
    if (done) throw new Error(`the PyTorch side ended: ${errors.trim().split('\n').at(-1)}`);
    return JSON.parse(value);
  };
  const { device: name, versions } = (await next()) as { device: string; versions: string };
  return {
    name,
    versions,
    async ask(message: object): Promise<Answer> {
      child.stdin.write(`${JSON.stringify(message)}\n`);
      const answer = (await next()) as Answer;
      if (answer.error) throw new Error(`the PyTorch side: ${answer.error}`);
      return answer;
    },
    close() {
      child.stdin.end();
    },
  };
}

type PyTorch = Awaited<ReturnType<typeof openPyTorch>>;

// ---- both sides -----------------------------------------------------------------------------------------------------

function randomIds(rows: number, length: number, vocab: number): number[][] {
  return Array.from({ length: rows }, () => Array.from({ length }, () => Math.floor(Math.random() * vocab)));
}

/** Norm of the difference over that of `a`, both without their mean. */
function apart(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const mean = (values: ArrayLike<number>) => Array.from(values).reduce((sum, x) => sum + x, 0) / values.length;
  const [meanA, meanB] = [mean(a), mean(b)];
  let [difference, norm] = [0, 0];
  for (let i = 0; i < a.length; i++) {
    difference += (a[i]! - meanA - b[i]! + meanB) ** 2;
    norm += (a[i]! - meanA) ** 2;
  }
  return Math.sqrt((difference + (meanA - meanB) ** 2 * a.length) / norm);
}

function requireClose(what: string, value: number, limit: number): void {
  if (!(value <= limit)) throw new Error(`${what}: the sides are ${value.toExponential(1)} apart, more than ${limit}`);
}

async function secondsOf(device: Device, run: () => Promise<unknown>): Promise<number> {
  await device.synchronize();
  const start = performance.now();
  await run();
  await device.synchronize();
  return (performance.now() - start) / 1000;
}

/** Times both sides in turn, after each has run once. One round is always made. */
async function takeTurns(
  seconds: number,
  ours: () => Promise<number>,
  pytorch: () => Promise<number>,
): Promise<Timing> {
  const end = performance.now() + seconds * 1000;
  await ours();
  await pytorch();
  const all = { ours: [] as number[], pytorch: [] as number[] };
  do {
    all.ours.push(await ours());
    all.pytorch.push(await pytorch());
  } while (all.ours.length < mostRounds && performance.now() < end);
  return { seconds: { ours: median(all.ours), pytorch: median(all.pytorch) }, all };
}

async function measureShape(
  shape: string,
  device: Device,
  peer: PyTorch,
  options: TrainingOptions & { seconds: number },
): Promise<Row> {
  const problem = problems[shape]!;
  const { config, prompt, completion, sequences } = problem;
  const folder = await mkdtemp(join(tmpdir(), 'grpo-bench-'));
  let policy: CausalLM | null = null;
  try {
    const { weights } = await peer.ask({ create: config, dtype: problem.dtype, folder });
    const files = Tokenizer.fromCharacters('ab').files();
    for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
    policy = await CausalLM.load(folder, { device, dtype: problem.dtype });

    // The same rollouts for both: groups of one prompt, half of their completions good.
    const prompts = randomIds(sequences / 8, prompt, config.vocab_size!).flatMap((ids) => Array(8).fill(ids));
    const completions = randomIds(sequences, completion, config.vocab_size!);
    const ids = prompts.map((start: number[], i) => [...start, ...completions[i]!]);
    const advantages = ids.map((_, i) => (i % 2 === 0 ? 1 : -1));
    const rollouts: Rollout[] = ids.map((_, i) => ({
      group: Math.floor(i / 8),
      promptIds: Int32Array.from(prompts[i]!),
      completionIds: Int32Array.from(completions[i]!),
      advantage: advantages[i]!,
    }));
    const few = Math.min(sequences, 4);
    const scored = rollouts.slice(0, few).map(({ promptIds, completionIds }) => ({ promptIds, completionIds }));
    const logProbs = (await policy.logProbs(scored)).flatMap((values) => Array.from(values));
    const theirs = (await peer.ask({ logProbs: ids.slice(0, few), prompt })).logProbs!;

    const trainer = await GRPOTrainer.create({
      policy,
      learningRate: 1e-6,
      lrSchedulerType: 'constant',
      lossType: 'dapo',
      beta: 0,
      weightDecay: 0,
      maxGradNorm: 1,
      perDeviceTrainBatchSize: problem.microBatch,
      gradientAccumulationSteps: sequences / problem.microBatch,
      gradientCheckpointing: false,
    });
    const update = () => trainer.step(rollouts);
    const peerUpdate = () => peer.ask({ update: ids, prompt, advantages, microBatch: problem.microBatch });
    const [report, theirReport] = [await update(), await peerUpdate()];
    const limits = tolerances[problem.dtype];
    const row: Row = {
      shape,
      weights: weights!,
      activations: policy.decoder.activations,
      problem,
      apart: {
        logProbs: apart(theirs, logProbs),
        gradNorm: Math.abs(report.gradNorm / theirReport.gradNorm! - 1),
        // Log-probs of other tokens must not pass.
        wrong: apart(theirs, [...logProbs.slice(1), logProbs[0]!]),
      },
    };
    requireClose(`log-probs of ${shape}`, row.apart.logProbs, limits.logProbs);
    requireClose(`norm of the gradients of ${shape}`, row.apart.gradNorm, limits.gradNorm);
    if (!(row.apart.wrong > limits.logProbs)) throw new Error(`the tolerance of ${shape} would accept wrong log-probs`);
    const engine = new NativeEngine(policy, { cacheBytes: 8 * 2 ** 30 });
    const starts = randomIds(problem.batch, prompt, config.vocab_size!);
    const startIds = starts.map((start) => Int32Array.from(start));
    const sample = async () => {
      const sampled = await engine.generate(startIds, { maxNewTokens: problem.newTokens, stopTokenIds: [] });
      return sampled.flat().reduce((sum, { completionIds }) => sum + completionIds.length, 0);
    };
    const peerSample = () => peer.ask({ generate: starts, tokens: problem.newTokens });
    const [tokens, theirTokens] = [await sample(), (await peerSample()).tokens! * problem.batch];
    if (tokens !== problem.batch * problem.newTokens || theirTokens !== tokens) {
      throw new Error(`sampling of ${shape}: ${tokens} and ${theirTokens} tokens`);
    }
    if (options.timed) {
      const half = options.seconds / 2;
      const updates = await takeTurns(
        half,
        () => secondsOf(device, update),
        async () => (await peerUpdate()).seconds!,
      );
      row.update = { ...updates, tokens: sequences * (prompt + completion), flops: updateFlops(problem, weights!) };
      const samples = await takeTurns(
        half,
        () => secondsOf(device, sample),
        async () => (await peerSample()).seconds!,
      );
      row.decode = { ...samples, tokens, bytesAStep: decodeBytes(problem, weights!) };
    }
    await trainer.close();
    return row;
  } finally {
    policy?.dispose();
    await rm(folder, { recursive: true, force: true });
  }
}

/** Six operations a weight and token; and attention's two products over half the square, forward and twice backward. */
function updateFlops({ config, sequences, prompt, completion }: Problem, weights: number): number {
  const length = prompt + completion;
  const attention = 6 * config.num_hidden_layers! * config.hidden_size! * length;
  return sequences * length * (6 * weights + attention);
}

/** Bytes that a step of sampling must read: bf16 weights, and bf16 keys and values of half the new tokens on average. */
function decodeBytes({ config, batch, prompt, newTokens }: Problem, weights: number): number {
  const keys = (config.hidden_size! / config.num_attention_heads!) * config.num_key_value_heads!;
  return 2 * weights + batch * (prompt + newTokens / 2) * config.num_hidden_layers! * 2 * keys * 2;
}

// ---- the report -----------------------------------------------------------------------------------------------------

export async function measureTraining(device: Device, options: TrainingOptions): Promise<void> {
  const unknown = options.shapes.find((shape) => !(shape in problems));
  if (unknown !== undefined) {
    throw new Error(`expected shapes among ${Object.keys(problems).join(', ')} but received ${unknown}`);
  }
  const peer = await openPyTorch(options.python, options.timed ? 'cuda' : 'cpu');
  const rows: Row[] = [];
  const failures: string[] = [];
  try {
    const rates = options.timed ? await peer.ask({ rates: true }) : null;
    const end = performance.now() + options.budgetSeconds * 1000;
    for (const [i, shape] of options.shapes.entries()) {
      const seconds = (end - performance.now()) / 1000 / (options.shapes.length - i);
      try {
        const row = await measureShape(shape, device, peer, { ...options, seconds });
        rows.push(row);
        const [logProbs, gradNorm] = [row.apart.logProbs, row.apart.gradNorm].map((x) => x.toExponential(0));
        console.log(`${shape}: log-probs ${logProbs} and norm of the gradients ${gradNorm} apart from PyTorch's`);
      } catch (error) {
        failures.push(`${shape}: ${(error as Error).message}`);
        console.log(failures.at(-1));
      }
      if (rates) write(device, peer, rates, rows, failures); // the run may be cut short
    }
  } finally {
    peer.close();
  }
  if (failures.length > 0) throw new Error(failures.join('; '));
}

function write(device: Device, peer: PyTorch, rates: Answer, rows: readonly Row[], failures: readonly string[]): void {
  const { copyBytesPerSecond, productFlopsPerSecond } = rates as Record<string, number>;
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  const updates = rows.map(({ shape, update }) => {
    const { tokens, flops, seconds } = update!;
    const cells = [seconds.ours, seconds.pytorch].map(
      (s) => `${s.toFixed(3)} s, ${(tokens / s).toFixed(0)} tokens/s, ${percent(flops / s / productFlopsPerSecond!)}`,
    );
    return `| ${shape} | ${cells.join(' | ')} | ${(seconds.pytorch / seconds.ours).toFixed(2)}x |`;
  });
  const decodes = rows.map(({ shape, problem, decode }) => {
    const { tokens, bytesAStep, seconds } = decode!;
    const floor = (bytesAStep * problem.newTokens) / copyBytesPerSecond!;
    const cells = [seconds.ours, seconds.pytorch].map(
      (s) => `${s.toFixed(3)} s, ${(tokens / s).toFixed(0)} tokens/s, ${percent(floor / s)}`,
    );
    return `| ${shape} | ${cells.join(' | ')} | ${(seconds.pytorch / seconds.ours).toFixed(2)}x |`;
  });
  const { sequences, microBatch, prompt, completion, batch, newTokens } = large;
  const result = {
    what: 'GRPO updates and sampling on CUDA beside PyTorch: median seconds',
    date: today(),
    command: commandOf('cuda', ['--python']),
    gpu: peer.name,
    device: device.backend.details,
    versions: `Node ${process.version}, ${peer.versions}`,
    copyBytesPerSecond,
    productFlopsPerSecond,
    failures,
    rows,
  };
  const details = Object.entries(device.backend.details).map(([key, value]) => `${key} ${value}`);
  const markdown = `# GRPO updates and sampling on ${peer.name}

- Date: ${result.date}
- Device: ${details.join('; ')}
- Versions: ${result.versions}
- Command: \`${result.command}\`
- In this run: a copy moves ${(copyBytesPerSecond! / 1e12).toFixed(2)} TB/s, read and written; a bf16 product of 8192 x 8192 x 8192 computes ${(productFlopsPerSecond! / 1e12).toFixed(0)} TFLOP/s.
- Shapes of Qwen2.5 with random weights, the same on both sides, bf16 beside float32 masters; our activations in ${[...new Set(rows.map((row) => row.activations))].join(' and ') || 'none'}; log-probs and the norm of the gradients agreed first.
- PyTorch: the model of transformers with SDPA, a compiled loss, fused AdamW; \`generate\` with its own cache. Both sides in turn, medians.
- Did not run: ${failures.join('; ') || 'nothing'}.

Update: ${sequences} sequences of ${prompt} + ${completion} tokens, ${microBatch} at a time, no gradient checkpointing. The share is that of the model's operations (six a weight and token, and attention) at the rate of the product.

| shape | ours | PyTorch | PyTorch's time over ours |
|---|---|---|---|
${updates.join('\n')}

Sampling: ${batch} prompts of ${prompt} tokens, ${newTokens} new tokens each. The share is the time in which weights and cache, in bf16, could be read at the rate of the copy.

| shape | ours | PyTorch | PyTorch's time over ours |
|---|---|---|---|
${decodes.join('\n')}
`;
  writeResults(`bench/results/cuda-training-${peer.name.toLowerCase().replace(/[^a-z0-9]+/g, '-')}`, result, markdown);
}
