/**
 * The GRPO kernels beside PyTorch, TRL's own functions, torch.compile, and the limits of the machine, in one run that
 * alternates between the two sides.
 *
 *     pip install torch transformers trl
 *     npm run bench -- kernels --python python3
 *
 * Writes bench/results/cpu-kernels.{json,md}.
 */
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg } from 'node:os';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import Benchmark from 'benchmark';
import {
  type Device,
  groupAdvantages,
  linearTokenLogProbs,
  linearTokenLogProbsBackward,
  openDevice,
  policyLoss,
  policyLossFromLogits,
  type Tensor,
  type TokenLogProbs,
  tokenLogProbs,
  tokenLogProbsBackward,
} from '../src/index.js';
import { commandOf, median, today, writeResults } from './common/report.js';

const { values: flags } = parseArgs({
  options: {
    python: { type: 'string', default: 'python3' },
    threads: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '3' },
    rows: { type: 'string', default: '64,512,4096' },
    vocab: { type: 'string', default: '32000,128256,151936' },
    hidden: { type: 'string', default: '896,1536' },
    'head-rows': { type: 'string', default: '512' },
    'head-vocab': { type: 'string', default: '151936' },
    /** Largest logits of a task, in GiB: PyTorch needs several times as much beside them. */
    'max-logits': { type: 'string', default: '0.7' },
    compile: { type: 'boolean', default: true },
    out: { type: 'string', default: 'bench/results/cpu-kernels' },
  },
  allowNegative: true,
});
const threads = Number(flags.threads);
const rounds = Number(flags.rounds);
const list = (text: string) => text.split(',').map(Number);

type FloatType = 'f32' | 'bf16';
interface Task {
  kind: 'log-probs' | 'linear' | 'policy-loss' | 'policy-loss-from-logits' | 'advantages';
  label: string;
  variants: string[];
  /** What the peer needs to make the same task. */
  peer: Record<string, unknown>;
  /** Makes the data; the result queues one run, and frees the data. */
  prepare: (device: Device) => { run: () => void; limit?: () => void; dispose: () => void };
  /** Bytes that must be read, for the limit of the memory; without, `limit` of the data is it. */
  readBytes?: number;
}

interface Row {
  task: string;
  ours: number;
  ourExtraBytes: number;
  /** Seconds, by variant; or why it does not run. */
  peers: Record<string, number | string>;
  peerExtraBytes: Record<string, number>;
  limit?: { what: string; seconds: number };
}

// ---- the tasks ------------------------------------------------------------------------------------------------------

function noise(count: number, scale: number): Float32Array {
  const base = Float32Array.from({ length: 4093 }, () => (Math.random() + Math.random() + Math.random() - 1.5) * scale);
  return Float32Array.from({ length: count }, (_, i) => base[(i * 7) % 4093]!);
}

/** Random logits made on the device: a large matrix from a small one. */
function randomMatrix(device: Device, rows: number, columns: number, dtype: FloatType, scale: number): Tensor {
  const pattern = Math.min(rows, 16);
  const few = device.tensor(noise(pattern * columns, scale), [pattern, columns], dtype);
  const indices = device.tensor(
    Int32Array.from({ length: rows }, (_, i) => i % pattern),
    [rows],
    'i32',
  );
  const out = device.empty([rows, columns], dtype);
  device.run('gatherRows', { in: few, indices, out });
  few.dispose();
  indices.dispose();
  return out;
}

function targetsOf(rows: number, vocab: number): Int32Array {
  return Int32Array.from({ length: rows }, (_, i) => (i * 7919) % vocab);
}

function disposeAll(...tensors: (Tensor | null)[]): void {
  for (const tensor of tensors) tensor?.dispose();
}

function upstream(device: Device, rows: number) {
  return {
    gradLogProbs: device.tensor(new Float32Array(rows).fill(0.5), [rows]),
    gradEntropy: device.tensor(new Float32Array(rows).fill(0.005), [rows]),
  };
}

function logProbsTask(rows: number, vocab: number, dtype: FloatType, backward: boolean): Task {
  const variants = ['eager', 'trl', ...(flags.compile ? ['compiled'] : [])];
  const bytes = rows * vocab * (dtype === 'f32' ? 4 : 2);
  return {
    kind: 'log-probs',
    label: `log-prob + entropy, forward${backward ? ' + backward' : ''}, N ${rows}, V ${vocab}, ${dtype}`,
    variants,
    peer: { rows, vocab, dtype, backward },
    ...(!backward && { readBytes: bytes }),
    prepare(device) {
      const logits = randomMatrix(device, rows, vocab, dtype, 4);
      const targets = device.tensor(targetsOf(rows, vocab), [rows], 'i32');
      const up = upstream(device, rows);
      const gradLogits = backward ? device.zeros([rows, vocab], dtype) : null;
      return {
        run() {
          const forward = tokenLogProbs(logits, targets);
          if (gradLogits) tokenLogProbsBackward(logits, targets, { ...forward, ...up, gradLogits });
          disposeAll(...Object.values(forward));
        },
        ...(gradLogits && { limit: () => device.run('copy', { in: logits, out: gradLogits }) }),
        dispose: () => disposeAll(logits, targets, gradLogits, ...Object.values(up)),
      };
    },
  };
}

function linearTask(rows: number, vocab: number, width: number, dtype: FloatType, backward: boolean): Task {
  return {
    kind: 'linear',
    label: `fused head, ${backward ? 'forward + backward' : 'forward'}, N ${rows}, V ${vocab}, H ${width}, ${dtype}`,
    variants: ['eager'],
    peer: { rows, vocab, hidden: width, dtype, backward },
    prepare(device) {
      const hidden = randomMatrix(device, rows, width, dtype, 1);
      const weight = randomMatrix(device, vocab, width, dtype, 0.1);
      const targets = device.tensor(targetsOf(rows, vocab), [rows], 'i32');
      const up = upstream(device, rows);
      const gradHidden = device.empty([rows, width]);
      const gradWeight = backward ? device.zeros([vocab, width]) : null;
      const logits = device.empty([rows, vocab]);
      const product = (a: Tensor, b: Tensor, out: Tensor, transposeA: number, transposeB: number) =>
        device.run('matmul', { a, b, out, transposeA, transposeB, accumulate: 0 });
      return {
        run() {
          const forward: TokenLogProbs = linearTokenLogProbs(hidden, weight, targets);
          if (gradWeight) {
            linearTokenLogProbsBackward(hidden, weight, targets, { ...forward, ...up, gradHidden, gradWeight });
          }
          disposeAll(...Object.values(forward));
        },
        // The products that cannot be avoided with a bounded workspace: one forward, three backward.
        limit() {
          product(hidden, weight, logits, 0, 1);
          if (!gradWeight) return;
          product(hidden, weight, logits, 0, 1);
          product(logits, weight, gradHidden, 0, 0);
          product(logits, hidden, gradWeight, 1, 0);
        },
        dispose: () => disposeAll(hidden, weight, targets, gradHidden, gradWeight, logits, ...Object.values(up)),
      };
    },
  };
}

function policyLossTask(tokens: number, sequences: number): Task {
  return {
    kind: 'policy-loss',
    label: `policy loss (dapo, KL), loss and gradient, ${tokens} tokens`,
    variants: ['eager'],
    peer: { tokens, sequences },
    prepare(device) {
      const [logProbs, oldLogProbs, refLogProbs] = [1, 2, 3].map(() => device.tensor(noise(tokens, 0.2), [tokens]));
      const advantages = device.tensor(noise(sequences, 1), [sequences]);
      const offsets = Int32Array.from({ length: sequences + 1 }, (_, b) => (b * tokens) / sequences);
      const sequenceOffsets = device.tensor(offsets, [sequences + 1], 'i32');
      const inputs = { logProbs: logProbs!, oldLogProbs, refLogProbs, advantages, sequenceOffsets };
      return {
        run: () => policyLoss(inputs, { beta: 0.04 }).dispose(),
        dispose: () => disposeAll(...Object.values(inputs).map((tensor) => tensor ?? null)),
      };
    },
  };
}

function policyLossFromLogitsTask(
  rows: number,
  vocab: number,
  dtype: FloatType,
  calls: 'one call' | 'three calls',
): Task {
  const sequences = 8;
  return {
    kind: 'policy-loss-from-logits',
    label: `policy loss from logits to their gradient (dapo, entropy bonus), ${calls}, N ${rows}, V ${vocab}, ${dtype}`,
    variants: ['eager', ...(flags.compile ? ['compiled'] : [])],
    peer: { rows, vocab, dtype },
    prepare(device) {
      const logits = randomMatrix(device, rows, vocab, dtype, 4);
      const targets = device.tensor(targetsOf(rows, vocab), [rows], 'i32');
      const oldLogProbs = device.tensor(new Float32Array(rows).fill(-Math.log(vocab)), [rows]);
      const advantages = device.tensor(noise(sequences, 1), [sequences]);
      const offsets = Int32Array.from({ length: sequences + 1 }, (_, b) => (b * rows) / sequences);
      const sequenceOffsets = device.tensor(offsets, [sequences + 1], 'i32');
      const gradLogits = device.zeros([rows, vocab], dtype);
      const batch = { oldLogProbs, advantages, sequenceOffsets };
      const options = { entropyCoefficient: 0.01 };
      return {
        run() {
          if (calls === 'one call') {
            policyLossFromLogits({ ...batch, logits, targets }, { ...options, gradLogits }).dispose();
            return;
          }
          const forward = tokenLogProbs(logits, targets);
          const { logProbs, entropy } = forward;
          const loss = policyLoss({ ...batch, logProbs, entropy }, options);
          const { gradLogProbs, gradEntropy } = loss;
          tokenLogProbsBackward(logits, targets, { ...forward, gradLogProbs, gradEntropy, gradLogits });
          loss.dispose();
          disposeAll(...Object.values(forward));
        },
        limit: () => device.run('copy', { in: logits, out: gradLogits }),
        dispose: () => disposeAll(logits, targets, gradLogits, ...Object.values(batch)),
      };
    },
  };
}

function advantagesTask(groups: number, size: number): Task {
  return {
    kind: 'advantages',
    label: `group advantages, ${groups} groups of ${size}`,
    variants: ['eager'],
    peer: { groups, size },
    prepare(device) {
      const rewards = device.tensor(noise(groups * size, 1), [groups * size]);
      return { run: () => groupAdvantages(rewards, { groupSize: size }).dispose(), dispose: () => rewards.dispose() };
    },
  };
}

// ---- the two sides --------------------------------------------------------------------------------------------------

interface Answer {
  versions?: string;
  seconds?: number[];
  extraBytes?: number;
  error?: string;
}

async function openPeer() {
  const child = spawn(flags.python, ['bench/peers/kernels_torch.py', '--threads', flags.threads], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<Answer> => {
    for (;;) {
      const { value, done } = await lines.next();
      if (done) throw new Error('the PyTorch side ended');
      if (value.startsWith('{"')) return JSON.parse(value) as Answer;
    }
  };
  const { versions } = await next();
  return {
    versions: versions!,
    ask(message: unknown): Promise<Answer> {
      child.stdin.write(`${JSON.stringify(message)}\n`);
      return next();
    },
    close: () => child.stdin.end(),
  };
}

/** Calls a sample queues before it waits: operations far shorter than the wait are never called one by one. */
function callsOf(task: Task): number {
  return task.kind === 'policy-loss' || task.kind === 'advantages' ? 10 : 1;
}

/** Seconds a call of each sample that Benchmark.js takes of `run` and what it queued. */
function sample(device: Device, run: () => void, calls = 1): Promise<number[]> {
  return new Promise((resolve, reject) => {
    new Benchmark({
      defer: true,
      minSamples: 3,
      maxTime: 0.3,
      fn(deferred: { resolve(): void }) {
        for (let i = 0; i < calls; i++) run();
        device.synchronize().then(() => deferred.resolve(), reject);
      },
      onComplete(this: Benchmark) {
        resolve(this.stats.sample.map((seconds) => seconds / calls));
      },
    }).run({ async: true });
  });
}

function memoryStatus(key: string): number {
  const [, kilobytes] = new RegExp(`${key}:\\s*(\\d+)`).exec(readFileSync('/proc/self/status', 'utf8'))!;
  return Number(kilobytes) * 1024;
}

async function extraMemory(device: Device, run: () => void): Promise<number> {
  writeFileSync('/proc/self/clear_refs', '5');
  const before = memoryStatus('VmRSS');
  run();
  await device.synchronize();
  return Math.max(memoryStatus('VmHWM') - before, 0);
}

async function measure(task: Task, peer: Awaited<ReturnType<typeof openPeer>>): Promise<Row> {
  // A device of its own: its scratch space then counts as extra memory of this task.
  const device = await openDevice('cpu', { threads });
  const data = task.prepare(device);
  await device.synchronize();
  const row: Row = { task: task.label, ours: 0, ourExtraBytes: 0, peers: {}, peerExtraBytes: {} };
  row.ourExtraBytes = await extraMemory(device, data.run);
  const ours: number[] = [];
  const limits: number[] = [];
  for (const variant of task.variants) {
    const { error, extraBytes } = await peer.ask({ prepare: { kind: task.kind, variant, ...task.peer } });
    if (error) {
      row.peers[variant] = error;
      continue;
    }
    row.peerExtraBytes[variant] = extraBytes!;
    const theirs: number[] = [];
    for (let round = 0; round < rounds; round++) {
      ours.push(...(await sample(device, data.run, callsOf(task))));
      theirs.push(...(await peer.ask({ run: 2 * callsOf(task) })).seconds!);
      if (data.limit) limits.push(...(await sample(device, data.limit)));
    }
    row.peers[variant] = median(theirs);
  }
  if (task.readBytes) limits.push(...(await peer.ask({ limit: task.readBytes })).seconds!);
  row.ours = median(ours);
  if (limits.length > 0) {
    const what = task.readBytes ? 'parallel sum' : task.kind === 'linear' ? 'bare matrix products' : 'copy';
    row.limit = { what, seconds: median(limits) };
  }
  data.dispose();
  device.close();
  console.log(line(row));
  return row;
}

// ---- the report -----------------------------------------------------------------------------------------------------

function milliseconds(seconds: number | string | undefined): string {
  if (seconds === undefined) return '';
  return typeof seconds === 'string' ? 'does not run' : (seconds * 1e3).toPrecision(3);
}

function ratio(row: Row, variant: string): string {
  const seconds = row.peers[variant];
  return typeof seconds === 'number'
    ? `${milliseconds(seconds)} (${(seconds / row.ours).toFixed(1)}x)`
    : milliseconds(seconds);
}

function line(row: Row): string {
  const limit = row.limit ? `${row.limit.what} ${milliseconds(row.limit.seconds)}` : '';
  const share = row.limit ? `${(row.ours / row.limit.seconds).toFixed(2)}x` : '';
  const mebibytes = (bytes: number | undefined) => (bytes === undefined ? '' : (bytes / 2 ** 20).toFixed(0));
  const memory = `${mebibytes(row.ourExtraBytes)} / ${mebibytes(row.peerExtraBytes.eager)}`;
  const peers = ['eager', 'trl', 'compiled'].map((variant) => ratio(row, variant));
  return `| ${[row.task, milliseconds(row.ours), ...peers, limit, share, memory].join(' | ')} |`;
}

const peer = await openPeer();
const probe = await openDevice('cpu', { threads });
const details = probe.backend.details;
probe.close();
const tasks: Task[] = [policyLossTask(65_536, 64), advantagesTask(4096, 8)];
const skipped: string[] = [];
for (const rows of list(flags.rows)) {
  for (const vocab of list(flags.vocab)) {
    for (const dtype of ['f32', 'bf16'] as const) {
      if (rows * vocab * 4 > Number(flags['max-logits']) * 2 ** 30) {
        skipped.push(`N ${rows}, V ${vocab}, ${dtype}`);
        continue;
      }
      tasks.push(logProbsTask(rows, vocab, dtype, false), logProbsTask(rows, vocab, dtype, true));
      for (const calls of ['one call', 'three calls'] as const) {
        tasks.push(policyLossFromLogitsTask(rows, vocab, dtype, calls));
      }
    }
  }
}
for (const width of list(flags.hidden)) {
  for (const dtype of ['f32', 'bf16'] as const) {
    for (const backward of [false, true]) {
      tasks.push(linearTask(Number(flags['head-rows']), Number(flags['head-vocab']), width, dtype, backward));
    }
  }
}

const startLoad = loadavg()[0]!;
const rows: Row[] = [];
for (const task of tasks) rows.push(await measure(task, peer));
peer.close();

const result = {
  what: 'GRPO kernels on the CPU: median milliseconds, and peak extra memory in MiB',
  date: today(),
  command: commandOf('kernels', ['--python']),
  cpu: `${cpus()[0]?.model.trim()}, ${availableParallelism()} cores, ${threads} threads used by both`,
  load: `load average ${startLoad.toFixed(1)} at the start, ${loadavg()[0]!.toFixed(1)} at the end`,
  device: details,
  versions: `Node ${process.version}, ${peer.versions}`,
  rows,
};
const markdown = `# GRPO kernels on the CPU

- Date: ${result.date}
- CPU: ${result.cpu}; ${result.load}
- Versions: ${result.versions}
- Device: ${Object.entries(details)
  .map(([key, value]) => `${key} ${value}`)
  .join('; ')}
- Command: \`${result.command}\`
- Medians of ${rounds} rounds a peer that alternate between the two sides; milliseconds. In brackets: the peer's time over ours.
- Not run (PyTorch's side would need several times the logits' memory; --max-logits): ${skipped.join('; ') || 'nothing'}.
- Policy loss and advantages: ten calls are queued, then awaited together, as in a training step.
- Limit: measured in the same run over the same memory. Extra memory: peak resident bytes beyond the inputs and our output gradient, ours / eager, MiB.

| task | ours | PyTorch eager | TRL's functions | torch.compile | limit | ours / limit | extra memory |
|---|---|---|---|---|---|---|---|
${rows.map(line).join('\n')}
`;
writeResults(flags.out, result, markdown);
