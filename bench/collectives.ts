/**
 * Collectives between processes of one machine: the bandwidth of all-reduce, and how much of the exchange of gradients
 * hides behind the backward pass.
 *
 *     npm run bench -- collectives [--ranks 2] [--steps 10]
 *
 * Writes bench/results/collectives-cpu.{json,md}. Each rank computes with one thread.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { GradientBuckets } from '../src/distributed/gradient-buckets.js';
import { openProcessGroup } from '../src/distributed/open-process-group.js';
import type { ProcessGroup, Store } from '../src/distributed/process-group.js';
import { CausalLM, type Device, openDevice, Tokenizer } from '../src/index.js';
import { gradientOrder } from '../src/models/decoder.js';
import { commandOf, median, today, writeResults } from './common/report.js';

const { values: flags } = parseArgs({
  options: {
    ranks: { type: 'string', default: '2' },
    steps: { type: 'string', default: '10' },
    rank: { type: 'string' },
  },
});
const worldSize = Number(flags.ranks);
const steps = Number(flags.steps);

const shape = {
  hiddenSize: 256,
  intermediateSize: 704,
  numHiddenLayers: 6,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 512,
};
const tokens = { sequences: 8, prompt: 32, completion: 32 };
const sizes = [2 ** 12, 2 ** 16, 2 ** 18, 2 ** 20, 2 ** 22, 2 ** 24];

interface Bandwidth {
  bytes: number;
  milliseconds: number;
}

interface Exchange {
  way: string;
  stepMilliseconds: number;
  bytesSent: number;
  communicationMilliseconds: number;
  waitMilliseconds: number;
}

interface Report {
  bandwidth: Bandwidth[];
  weights: number;
  exchange: Exchange[];
}

if (flags.rank === undefined) await parent();
else await runRank(Number(flags.rank));

// ---- a rank -----------------------------------------------------------------------------------------------------------

async function runRank(rank: number): Promise<void> {
  const device = await openDevice('cpu', { threads: 1 });
  const group = await openProcessGroup({
    device,
    rank,
    worldSize,
    localRank: rank,
    store: parentStore(),
    interface: '127.0.0.1',
  });
  const report = { bandwidth: await measureBandwidth(device, group), ...(await measureExchange(device, group, rank)) };
  await group.close();
  device.close();
  process.send!({ report });
  process.disconnect();
}

async function measureBandwidth(device: Device, group: ProcessGroup): Promise<Bandwidth[]> {
  const results: Bandwidth[] = [];
  for (const bytes of sizes) {
    const x = device.zeros([bytes / 4]);
    const first = x.view([1]);
    const times: number[] = [];
    for (let i = 0; i < steps + 2; i++) {
      await group.barrier();
      const start = performance.now();
      group.allReduce(x);
      await first.read();
      times.push(performance.now() - start);
    }
    results.push({ bytes, milliseconds: median(times.slice(2)) });
    first.dispose();
    x.dispose();
  }
  return results;
}

async function measureExchange(device: Device, group: ProcessGroup, rank: number): Promise<Omit<Report, 'bandwidth'>> {
  const alphabet = Array.from({ length: 510 }, (_, i) => String.fromCodePoint(0x4e00 + i));
  const policy = CausalLM.create(shape, Tokenizer.fromCharacters(alphabet), { device, seed: 1 });
  const { parameters } = policy;
  parameters.enableGradients();
  const ids = (count: number, salt: number) => Array.from({ length: count }, (_, i) => (i * 31 + salt * 17) % 500);
  const sequences = Array.from({ length: tokens.sequences }, (_, s) => ({
    promptIds: ids(tokens.prompt, s + 100 * rank),
    completionIds: ids(tokens.completion, s + 7),
  }));
  const ones = device.tensor(new Float32Array(tokens.sequences * tokens.completion).fill(1), [
    tokens.sequences * tokens.completion,
  ]);
  const first = parameters.gradients!.view([1]);
  const buckets = new GradientBuckets(group, parameters, gradientOrder(policy.config));
  const ways: Record<string, () => void> = {
    'no exchange': () => backward(),
    'after backward, in one piece': () => {
      backward();
      group.allReduce(parameters.gradients!);
    },
    'in buckets, during backward': () => {
      backward((prefix) => buckets.complete(prefix));
      buckets.finish();
    },
  };
  function backward(onGradients?: (prefix: string) => void): void {
    parameters.zeroGradients();
    const scores = policy.score(sequences, { gradients: true, onGradients });
    scores.backward(ones);
    scores.dispose();
  }

  const exchange: Exchange[] = [];
  for (const [way, step] of Object.entries(ways)) {
    const times: number[] = [];
    let before = group.statistics();
    for (let i = 0; i < steps + 2; i++) {
      await group.barrier();
      if (i === 2) before = group.statistics();
      const start = performance.now();
      step();
      await device.synchronize();
      // What reads the gradients first in a training step reads all of them.
      device.run('globalNorm', { in: parameters.gradients!, norm: first });
      await first.read();
      times.push(performance.now() - start);
    }
    const after = group.statistics();
    exchange.push({
      way,
      stepMilliseconds: median(times.slice(2)),
      bytesSent: (after.bytesSent - before.bytesSent) / steps,
      communicationMilliseconds: ((after.communicationSeconds - before.communicationSeconds) * 1000) / steps,
      waitMilliseconds: ((after.waitSeconds - before.waitSeconds) * 1000) / steps,
    });
  }
  const weights = parameters.count;
  for (const tensor of [ones, first]) tensor.dispose();
  policy.dispose();
  return { weights, exchange };
}

/** The parent process keeps the addresses. */
function parentStore(): Store {
  return {
    async set(key, value) {
      process.send!({ set: key, value: Buffer.from(value).toString('base64') });
    },
    get(key) {
      return new Promise((resolve) => {
        process.on('message', (message: { key: string; value: string }) => {
          if (message.key === key) resolve(Buffer.from(message.value, 'base64'));
        });
        process.send!({ get: key });
      });
    },
  };
}

// ---- the parent -------------------------------------------------------------------------------------------------------

async function parent(): Promise<void> {
  const known = new Map<string, string>();
  const reports: Report[] = [];
  const children = Array.from({ length: worldSize }, (_, rank) =>
    fork(fileURLToPath(import.meta.url), [...process.argv.slice(2), '--rank', String(rank)]),
  );
  const waiting: { rank: number; key: string }[] = [];
  children.forEach((child, rank) => {
    child.on('message', (message: { set?: string; value?: string; get?: string; report?: Report }) => {
      if (message.report) reports[rank] = message.report;
      if (message.set) known.set(message.set, message.value!);
      if (message.get) waiting.push({ rank, key: message.get });
      for (const entry of waiting.splice(0)) {
        if (known.has(entry.key)) children[entry.rank]!.send({ key: entry.key, value: known.get(entry.key)! });
        else waiting.push(entry);
      }
    });
  });
  const codes = await Promise.all(children.map(async (child) => (await once(child, 'close'))[0] as number | null));
  if (codes.some((code) => code !== 0)) throw new Error(`ranks ended with ${codes.join(', ')}`);
  const report = reports[0]!;
  const result = {
    date: today(),
    cpu: `${cpus()[0]!.model}, ${cpus().length} cores`,
    command: commandOf('collectives'),
    ranks: worldSize,
    threadsPerRank: 1,
    ...report,
  };
  writeResults('bench/results/collectives-cpu', result, describe(result));
}

function describe(
  result: Report & { date: string; cpu: string; command: string; ranks: number; threadsPerRank: number },
): string {
  const bandwidth = result.bandwidth.map(({ bytes, milliseconds }) => {
    // What a rank sends and, at the same time, receives: 2 (n - 1) / n of the tensor.
    const moved = (2 * bytes * (result.ranks - 1)) / result.ranks;
    return `| ${bytes / 1024} | ${milliseconds.toFixed(2)} | ${(moved / milliseconds / 1e6).toFixed(2)} |`;
  });
  const exchange = result.exchange.map((e) => {
    const hidden = Math.max(0, 1 - e.waitMilliseconds / e.communicationMilliseconds);
    const numbers = [e.stepMilliseconds, e.communicationMilliseconds, e.waitMilliseconds].map((n) => n.toFixed(1));
    const share = e.bytesSent > 100 ? `${Math.round(100 * hidden)} %` : '-';
    return `| ${e.way} | ${numbers[0]} | ${(e.bytesSent / 2 ** 20).toFixed(2)} | ${numbers[1]} | ${numbers[2]} | ${share} |`;
  });
  return [
    '# Collectives on the CPU',
    '',
    `- Date: ${result.date}`,
    `- CPU: ${result.cpu}; ${result.ranks} ranks of ${result.threadsPerRank} thread on loopback, Gloo`,
    `- Command: \`${result.command}\``,
    `- Medians of ${steps}. A rank sends 2 (n - 1) / n of what it reduces, and receives as much at the same time.`,
    '',
    '| all-reduce, KiB | ms | GB/s sent by a rank |',
    '|---|---|---|',
    ...bandwidth,
    '',
    `Gradients of a model of ${(result.weights / 1e6).toFixed(1)} M weights, ${tokens.sequences} sequences of ` +
      `${tokens.prompt} + ${tokens.completion} tokens a rank. Waiting: the time that the device stands still for a ` +
      'collective; the rest of the communication is hidden. A collective also waits for the slower rank.',
    '',
    '| exchange | step, ms | MiB sent a step | communicating, ms | waiting, ms | hidden |',
    '|---|---|---|---|---|---|',
    ...exchange,
    '',
  ].join('\n');
}
