/**
 * The GRPO kernels on a WebGPU adapter beside the same operations in TensorFlow.js and onnxruntime-web, all on one
 * GPUDevice and the same buffers, in one run that takes the sides in turn. Before anything is timed, the results of the
 * peers must be ours. Beside them the rate at which the adapter copies memory.
 *
 *     npm run bench:webgpu                                         # sizes for an adapter on the processor
 *     npm run bench:webgpu -- --rows 8192 --vocab 151936 --dtypes bf16 --beside cuda
 *
 * Writes bench/results/webgpu-<adapter>.{json,md}.
 */
import { createRequire } from 'node:module';
import { availableParallelism, cpus, loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { globals } from 'webgpu';
import { loadDawn } from '../src/backend/dawn.js';
import type { WebGpuBackend } from '../src/backend/webgpu/backend.js';
import { openDevice } from '../src/index.js';
import { commandOf, median, today, writeResults } from './common/report.js';
import { difference, tolerance } from './webgpu/compare.js';
import { type Copies, prepareCopies } from './webgpu/copy-rate.js';
import { ourSide } from './webgpu/ours.js';
import {
  disposeInputs,
  groupAdvantagesProblem,
  logProbsProblem,
  type Problem,
  policyLossProblem,
} from './webgpu/problems.js';
import type { Side, Work } from './webgpu/side.js';

const { values: flags } = parseArgs({
  options: {
    /** Part of an adapter's name; `software`: any, hardware first. */
    adapter: { type: 'string', default: 'software' },
    rows: { type: 'string', default: '64' },
    vocab: { type: 'string', default: '8192,32768,131072' },
    dtypes: { type: 'string', default: 'f32,bf16' },
    tokens: { type: 'string', default: '65536' },
    groups: { type: 'string', default: '4096' },
    rounds: { type: 'string', default: '5' },
    peers: { type: 'string', default: 'tensorflowjs,onnxruntime-web' },
    /** Another device, `cuda` say, on which the same calls are timed. */
    beside: { type: 'string' },
    out: { type: 'string' },
  },
});
const rounds = Number(flags.rounds);
const list = (text: string) => text.split(',').filter(Boolean);
/** Seconds that a sample takes about, in as many calls as that needs. */
const sampleSeconds = 0.2;
const mostCalls = 50;

interface Row {
  task: string;
  /** Bytes that must be read and written at least. */
  bytes: number;
  /** Seconds a call, by side; or why it does not run. */
  seconds: Record<string, number | string>;
  /** Largest difference from our results. */
  differences: Record<string, number>;
  /** Bytes a second, read and written ones counted both. */
  copyRates: Record<string, number>;
}

await actLikeBrowser();
const device = await openDevice(`webgpu:${flags.adapter}`);
const { gpuDevice } = device.backend as WebGpuBackend;
const info = gpuDevice.adapterInfo;
const ours = ourSide(device, 'ours');
const { peers, closePeers } = await openPeers();
const beside = flags.beside ? await openDevice(flags.beside) : null;

// ---- measuring ------------------------------------------------------------------------------------------------------

/** The peers look for what a browser has. */
async function actLikeBrowser(): Promise<void> {
  Object.assign(globalThis, globals);
  const scope = globalThis as { navigator?: object };
  if (!scope.navigator) Object.defineProperty(scope, 'navigator', { value: { userAgent: 'Node.js' } });
  Object.defineProperty(scope.navigator, 'gpu', { value: await loadDawn(), configurable: true });
}

async function openPeers() {
  const wanted = list(flags.peers);
  const peers: Side[] = [];
  let closePeers = () => {};
  if (wanted.includes('tensorflowjs')) {
    const { tensorFlowSide } = await import('./webgpu/tensorflowjs.js');
    peers.push(await tensorFlowSide(gpuDevice));
  }
  if (wanted.includes('onnxruntime-web')) {
    const { onnxRuntimeSide } = await import('./webgpu/onnxruntime-web.js');
    const side = await onnxRuntimeSide(gpuDevice);
    peers.push(side);
    closePeers = side.close;
  }
  return { peers, closePeers };
}

async function secondsOf(queue: Work['queue'], wait: Work['wait'], calls: number): Promise<number> {
  const start = performance.now();
  for (let i = 0; i < calls; i++) await queue();
  await wait();
  return (performance.now() - start) / 1000 / calls;
}

/** Runs once to compile, then says how many calls make a sample. */
async function warmUp(queue: Work['queue'], wait: Work['wait']): Promise<number> {
  await secondsOf(queue, wait, 1);
  const seconds = await secondsOf(queue, wait, 2);
  return Math.min(mostCalls, Math.max(1, Math.round(sampleSeconds / seconds)));
}

/** What `run` does, and what WebGPU says against it becomes an error. */
async function checked<T>(run: () => Promise<T>): Promise<T> {
  const kinds = ['validation', 'out-of-memory', 'internal'] as const;
  for (const kind of kinds) gpuDevice.pushErrorScope(kind);
  let result: { value: T } | { error: unknown };
  try {
    result = { value: await run() };
  } catch (error) {
    result = { error };
  }
  const errors = await Promise.all(kinds.map(() => gpuDevice.popErrorScope()));
  if ('error' in result) throw result.error;
  const first = errors.find((error) => error);
  if (first) throw new Error(first.message);
  return result.value;
}

interface Timed {
  queue: Work['queue'];
  wait: Work['wait'];
  calls: number;
  samples: number[];
}

async function measure(problem: Problem): Promise<Row> {
  const bytes = problem.passes * problem.bytes;
  const row: Row = { task: problem.label, bytes, seconds: {}, differences: {}, copyRates: {} };
  const { maxBufferSize } = gpuDevice.limits;
  if (problem.bytes > maxBufferSize) {
    row.seconds.ours = `${problem.bytes} bytes of logits exceed the adapter's maxBufferSize of ${maxBufferSize}`;
    return row;
  }
  const inputs = problem.makeInputs(device, gpuDevice);
  const timed: Record<string, Timed> = {};
  const works: Work[] = [];
  const start = async (side: Side, given = inputs) => {
    const work = await side.prepare(problem.operation, given);
    works.push(work);
    const { queue, wait } = work;
    timed[side.name] = { queue, wait, calls: await warmUp(queue, wait), samples: [] };
    return work.results();
  };
  const expected = await start(ours);
  const compare = (name: string, results: Record<string, Float32Array>) => {
    row.differences[name] = Math.max(
      ...Object.entries(results).map(([key, values]) => difference(values, expected[key]!)),
    );
    if (!(row.differences[name] <= tolerance)) {
      throw new Error(`${problem.label}: ${name} differs from ours by ${row.differences[name]}`);
    }
  };
  for (const side of problem.dtype === 'f32' ? peers : []) {
    let results: Record<string, Float32Array>;
    try {
      results = await checked(() => start(side));
    } catch (error) {
      delete timed[side.name];
      row.seconds[side.name] = String((error as Error).message).split('\n')[0]!;
      continue;
    }
    compare(side.name, results);
  }
  const besideInputs = beside && problem.makeInputs(beside, null);
  if (beside) {
    compare(beside.name, await start(ourSide(beside, beside.name), besideInputs!));
  }
  const copies: Copies | null = problem.passes > 0 ? prepareCopies(gpuDevice, problem.bytes) : null;
  for (const [way, queue] of Object.entries(copies?.ways ?? {})) {
    const wait = () => gpuDevice.queue.onSubmittedWorkDone();
    timed[`copy ${way}`] = { queue, wait, calls: await warmUp(queue, wait), samples: [] };
  }
  const entries = Object.entries(timed);
  for (let round = 0; round < rounds; round++) {
    // There and back, so that nobody always follows the same one.
    for (const [, { queue, wait, calls, samples }] of round % 2 === 0 ? entries : entries.toReversed()) {
      samples.push(await secondsOf(queue, wait, calls));
    }
  }
  for (const [name, { samples }] of entries) {
    if (name.startsWith('copy ')) row.copyRates[name.slice(5)] = (2 * copies!.bytes) / median(samples);
    else row.seconds[name] = median(samples);
  }
  for (const work of works) work.dispose();
  copies?.dispose();
  disposeInputs(inputs);
  if (besideInputs) disposeInputs(besideInputs);
  console.log(line(row));
  return row;
}

// ---- the report -----------------------------------------------------------------------------------------------------

function columnsOf(): string[] {
  return [...peers.map(({ name }) => name), ...(beside ? [beside.name] : [])];
}

function cell(row: Row, name: string): string {
  const seconds = row.seconds[name];
  if (seconds === undefined) return '';
  if (typeof seconds === 'string') return 'does not run';
  const milliseconds = (seconds * 1e3).toPrecision(3);
  const own = row.seconds.ours;
  return name === 'ours' || typeof own !== 'number' ? milliseconds : `${milliseconds} (${(seconds / own).toFixed(2)}x)`;
}

function line(row: Row): string {
  const cells = [row.task, cell(row, 'ours'), ...columnsOf().map((name) => cell(row, name))];
  const own = row.seconds.ours;
  const best = Math.max(0, ...Object.values(row.copyRates));
  if (best > 0 && typeof own === 'number') {
    const rate = row.bytes / own;
    cells.push(
      (row.bytes / 1e6).toFixed(1),
      (rate / 1e9).toPrecision(2),
      (best / 1e9).toFixed(2),
      `${((100 * rate) / best).toPrecision(2)} %`,
    );
  } else cells.push('', '', '', '');
  return `| ${cells.join(' | ')} |`;
}

const problems: Problem[] = [
  policyLossProblem(Number(flags.tokens), 64),
  groupAdvantagesProblem(Number(flags.groups), 8),
];
for (const rows of list(flags.rows).map(Number)) {
  for (const vocab of list(flags.vocab).map(Number)) {
    for (const dtype of list(flags.dtypes) as ('f32' | 'bf16')[]) {
      for (const operation of ['forward', 'backward', 'both'] as const) {
        problems.push(logProbsProblem(operation, rows, vocab, dtype));
      }
    }
  }
}

const startLoad = loadavg()[0]!;
const rows: Row[] = [];
for (const problem of problems) rows.push(await measure(problem));

closePeers();
beside?.close();
const { version: dawn } = createRequire(import.meta.url)('webgpu/package.json') as { version: string };
const result = {
  what: 'GRPO kernels on a WebGPU adapter: median seconds a call',
  date: today(),
  command: commandOf('webgpu'),
  adapter: { vendor: info.vendor, architecture: info.architecture, device: info.device, description: info.description },
  computesOnProcessor: info.isFallbackAdapter,
  details: device.backend.details,
  versions: [`Node ${process.version}`, `Dawn (webgpu ${dawn})`, ...peers.map(({ name }) => name)].join(', '),
  load: `load average ${startLoad.toFixed(1)} at the start, ${loadavg()[0]!.toFixed(1)} at the end`,
  rounds,
  tolerance,
  rows,
};
const differences = rows.flatMap((row) => Object.values(row.differences));
const processor = `; it computes on the processor (${cpus()[0]!.model.trim()}, ${availableParallelism()} cores)`;
const failures = rows.flatMap(({ task, seconds }) =>
  Object.entries(seconds).flatMap(([name, why]) => (typeof why === 'string' ? [`- ${task}, ${name}: ${why}`] : [])),
);
const columns = ['task', 'ours', ...columnsOf(), 'MB', 'GB/s', 'copy, GB/s', 'share of the copy rate'];
const markdown = `# GRPO kernels on WebGPU: ${info.description || info.device}

- Date: ${result.date}
- Adapter: ${Object.entries(result.adapter)
  .map(([key, value]) => `${key} ${value}`)
  .join('; ')}${info.isFallbackAdapter ? processor : ''}; ${result.load}
- Features in use: ${device.backend.details.features}
- Versions: ${result.versions}
- Command: \`${result.command}\`
- All sides use one GPUDevice and read the same buffers. Medians of ${rounds} rounds that take the sides in turn; milliseconds a call: several calls are queued, then awaited. In brackets: the time over ours.
- Before timing, results are compared with ours: the sum of differences is at most ${Math.max(0, ...differences).toPrecision(2)} of the sum of magnitudes (allowed: ${tolerance}).
- MB: what must be read and written at least: the logits once forward, twice (and the gradient) with the backward pass. Copy: the better of a copy by the queue and one by a shader, over as much memory, read and written bytes counted both.
- bf16: neither peer has it. TensorFlow.js: gradients by its automatic differentiation, except in the row of the backward pass alone, where the formula is written out. onnxruntime-web: gradients are written out in the graph; its provider has no LogSoftmax on the GPU, so that it is written out as well.

| ${columns.join(' | ')} |
|${columns.map(() => '---').join('|')}|
${rows.map(line).join('\n')}
${failures.length > 0 ? `\nDoes not run:\n\n${failures.join('\n')}\n` : ''}`;
const slug = (info.device || device.name)
  .toLowerCase()
  .replace(/[^a-z0-9]+/g, '-')
  .replace(/^-|-$/g, '');
writeResults(flags.out ?? `bench/results/webgpu-${slug}`, result, markdown);
device.close();
