/**
 * One GRPO step (rollout plus update) beside TRL's `GRPOTrainer`, on the same CPU, model folder and sizes, in one run
 * that alternates between the two.
 *
 *     pip install torch transformers trl
 *     npm run bench -- grpo-step --python python3
 *
 * Writes bench/results/grpo-step-cpu.{json,md}.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { CausalLM, type Device, GRPOTrainer, NativeEngine, openDevice, Tokenizer } from '../src/index.js';
import { commandOf, median, today, writeResults } from './common/report.js';

const { values: flags } = parseArgs({
  options: {
    python: { type: 'string', default: 'python3' },
    rounds: { type: 'string', default: '3' },
    steps: { type: 'string', default: '4' },
    threads: { type: 'string', default: '2' },
    model: { type: 'string', multiple: true },
    prompt: { type: 'string', multiple: true },
    matmul: { type: 'string' },
  },
});
const rounds = Number(flags.rounds);
const steps = Number(flags.steps);
const threads = Number(flags.threads);
const warmup = 2;
/** Prompts short beside their completions, and as long as a word problem in a chat template. */
const promptLengths = (flags.prompt ?? ['16', '128']).map(Number);

interface Sizes {
  prompts: number;
  generations: number;
  tokens: number;
  promptTokens: number;
}

const shapes = {
  '1M': {
    vocab: 256,
    shape: { hiddenSize: 128, intermediateSize: 384, numHiddenLayers: 5, numAttentionHeads: 4, numKeyValueHeads: 2 },
  },
  '26M': {
    vocab: 4096,
    shape: { hiddenSize: 512, intermediateSize: 1408, numHiddenLayers: 8, numAttentionHeads: 8, numKeyValueHeads: 4 },
  },
} as const;
type ModelName = keyof typeof shapes;

/** Characters stand for the tokens of a vocabulary, so that both sides see the same ids. */
function alphabet(size: number): string[] {
  return Array.from({ length: size - 2 }, (_, i) => String.fromCodePoint(0x4e00 + i));
}

async function createModel(name: ModelName, device: Device): Promise<CausalLM> {
  const { vocab, shape } = shapes[name];
  const tokenizer = Tokenizer.fromCharacters(alphabet(vocab));
  const config = { modelType: 'llama', tieWordEmbeddings: true, maxPositionEmbeddings: 512, ...shape } as const;
  return CausalLM.create(config, tokenizer, { device, seed: 1 });
}

/** Seconds of each step of ours. */
async function ours(policy: CausalLM, sizes: Sizes): Promise<number[]> {
  const engine = new NativeEngine(policy);
  const text = alphabet(60);
  const dataset = Array.from({ length: sizes.prompts * (steps + warmup) }, (_, row) => ({
    prompt: Array.from({ length: sizes.promptTokens }, (_, i) => text[8 + ((7 * row + i) % 50)]).join(''),
  }));
  const trainer = await GRPOTrainer.create({
    policy,
    dataset,
    // Unequal inside each group, so that every token carries a gradient.
    rewards: [(batch) => batch.map((_, i) => i % 3)],
    // Every completion has exactly `tokens` tokens, as on the other side.
    engine: { generate: (prompts, options) => engine.generate(prompts, { ...options, stopTokenIds: [] }) },
    perDeviceTrainBatchSize: sizes.prompts * sizes.generations,
    gradientAccumulationSteps: 1,
    numGenerations: sizes.generations,
    maxCompletionLength: sizes.tokens,
    maxSteps: steps + warmup,
    learningRate: 1e-6,
    gradientCheckpointing: false,
    beta: 0,
  });
  const seconds: number[] = [];
  let last = performance.now();
  for await (const report of trainer) {
    const now = performance.now();
    if (report.step > warmup) seconds.push((now - last) / 1000);
    last = now;
  }
  await trainer.close();
  return seconds;
}

/** Seconds of each step of TRL's. */
async function trl(folder: string, sizes: Sizes): Promise<{ seconds: number[]; versions: string }> {
  const args = ['bench/peers/grpo_step_trl.py', folder, '--steps', `${steps}`, '--warmup', `${warmup}`];
  const sizeArgs = Object.entries(sizes).flatMap(([key, value]) => [
    `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`,
    `${value}`,
  ]);
  const child = spawn(flags.python, [...args, '--threads', `${threads}`, ...sizeArgs], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk.toString();
  });
  const seconds: number[] = [];
  let versions = '';
  for await (const line of createInterface({ input: child.stdout })) {
    if (!line.startsWith('{"')) continue;
    const entry = JSON.parse(line) as { seconds?: number; versions?: string };
    if (entry.seconds !== undefined) seconds.push(entry.seconds);
    if (entry.versions) versions = entry.versions;
  }
  if (seconds.length !== steps) throw new Error(`the TRL side gave ${seconds.length} of ${steps} steps:\n${errors}`);
  return { seconds, versions };
}

/** Both sides in turn, on one model folder. */
async function compare(name: ModelName, promptTokens: number, device: Device) {
  const sizes: Sizes = { prompts: 4, generations: 8, tokens: 64, promptTokens };
  const tokens = sizes.prompts * sizes.generations * sizes.tokens;
  const folder = await mkdtemp(join(tmpdir(), 'grpo-bench-'));
  const policy = await createModel(name, device);
  try {
    await policy.save(folder);
    const own: number[] = [];
    const peer: number[] = [];
    let versions = '';
    for (let round = 0; round < rounds; round++) {
      own.push(...(await ours(policy, sizes)));
      const result = await trl(folder, sizes);
      peer.push(...result.seconds);
      versions = result.versions;
      const [a, b] = [median(own), median(peer)].map((seconds) => seconds.toFixed(3));
      console.log(`${name}, prompts of ${promptTokens}, round ${round + 1}: ours ${a} s, TRL ${b} s a step`);
    }
    // What has to be computed: 2 a weight for a sampled token, 6 for one that is trained on, each prompt once.
    const prompts = sizes.prompts * promptTokens;
    const flops = policy.parameters.count * (2 * (tokens + prompts) + 6 * (tokens + prompts));
    return {
      model: name,
      weights: policy.parameters.count,
      ...sizes,
      ourSeconds: median(own),
      trlSeconds: median(peer),
      ourTokensPerSecond: tokens / median(own),
      trlTokensPerSecond: tokens / median(peer),
      ratio: median(peer) / median(own),
      ourGflops: flops / median(own) / 1e9,
      allOurs: own,
      allTrl: peer,
      versions,
    };
  } finally {
    policy.dispose();
    await rm(folder, { recursive: true, force: true });
  }
}

const device = await openDevice('cpu', { threads, ...(flags.matmul ? { matmul: flags.matmul as 'builtin' } : {}) });
const rows: Awaited<ReturnType<typeof compare>>[] = [];
for (const name of (flags.model ?? Object.keys(shapes)) as ModelName[]) {
  for (const promptTokens of promptLengths) rows.push(await compare(name, promptTokens, device));
}

const result = {
  what: 'one GRPO step: rollout and update, seconds (median) and completion tokens a second',
  date: today(),
  command: commandOf('grpo-step', ['--python']),
  cpu: `${cpus()[0]?.model.trim()}, ${availableParallelism()} cores, ${threads} threads used by both`,
  device: device.backend.details,
  versions: `Node ${process.version}, ${rows[0]?.versions}`,
  rows,
};
device.close();

const table = rows.map(
  (row) =>
    `| ${row.model} | ${row.promptTokens} | ${row.ourTokensPerSecond.toFixed(0)} | ${row.trlTokensPerSecond.toFixed(0)} | ${row.ratio.toFixed(2)} | ${row.ourGflops.toFixed(0)} |`,
);
const markdown = `# One GRPO step on the CPU, beside TRL

- Date: ${result.date}
- CPU: ${result.cpu}
- Versions: ${result.versions}
- Device: ${Object.entries(result.device)
  .map(([key, value]) => `${key} ${value}`)
  .join('; ')}
- Command: \`${result.command}\`
- Sizes: 4 prompts x 8 completions of 64 tokens; one rollout and one update a step; float32; no KL; no gradient checkpointing.
- Both sides load the same model folder and run in turn, ${rounds} rounds of ${steps} steps after ${warmup} of warm-up; medians.

| weights | prompt tokens | ours, completion tokens/s | TRL, completion tokens/s | ratio | ours, useful GFLOP/s |
|---|---|---|---|---|---|
${table.join('\n')}
`;
writeResults('bench/results/grpo-step-cpu', result, markdown);
