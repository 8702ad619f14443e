// Recordings as CUDA graphs, on the stand-in for the processor (test/cuda-on-cpu): a launch runs the captured calls with
// the arguments of then.
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { KernelError, OutOfMemoryError } from '../../../src/errors.js';
import { policyLoss } from '../../../src/kernels/policy-loss.js';
import '../../../src/platform/node.js';
import type { Device, Tensor } from '../../../src/tensor.js';
import { compileFixture } from '../../c-library.js';
import { cudaOnCpu } from '../../devices.js';
import { tinyPolicy } from '../../tiny-model.js';

const folder = mkdtempSync(join(tmpdir(), 'grpo-graphs-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe.skipIf(!existsSync(cudaOnCpu.library))('a recording on CUDA', () => {
  const opened: Device[] = [];
  afterEach(() => {
    for (const device of opened.splice(0)) device.close();
    vi.unstubAllEnvs();
  });

  /** A device, and what its host has called since the last time: kernels' launches, copies, launches of graphs. */
  async function open(name = 'cuda') {
    vi.stubEnv('GRPO_CUDA_LIBRARY', compileFixture(folder, 'counted_calls'));
    vi.stubEnv('GRPO_CUDA_ON_CPU_LIBRARY', cudaOnCpu.library);
    vi.stubEnv('GRPO_CUBLAS_LIBRARY', cudaOnCpu.cublas);
    const device = await openDevice(name);
    opened.push(device);
    const counted = device.tensorFromPointer(BigInt(device.backend.details.counts!), [4], 'i32');
    let last = await counted.read();
    const calls = async () => {
      await device.synchronize();
      const now = await counted.read();
      // The reading itself copies once.
      const since = [now[0]! - last[0]!, now[1]! - last[1]! - 1, now[2]! - last[2]!];
      last = now;
      return since;
    };
    const liveGraphs = async () => {
      await device.synchronize();
      return (await counted.read())[3];
    };
    return { device, calls, liveGraphs };
  }

  test('beside operations that are a launch each, however many blocks they have', async () => {
    const { device, calls } = await open();
    const tensor = (size: number, value = 0.5) => device.tensor(new Float32Array(size).fill(value), [size]);
    const [logProbs, rewards, ids, sampled] = [tensor(3000, -1), tensor(80), device.zeros([3], 'i32'), tensor(3)];
    const logits = device.tensor(new Float32Array(3 * 20_000).fill(1), [3, 20_000]);
    const keys = device.tensor(new Int32Array(12), [3, 4], 'i32');
    const groups = device.tensor(Int32Array.of(0, 20, 40, 80), [4], 'i32');
    const [weights, gradients, first, second] = [tensor(50_000), tensor(50_000), tensor(50_000), tensor(50_000)];
    const norm = tensor(1);
    const scalars = { learningRate: 1, beta1: 0.9, beta2: 0.9, epsilon: 1e-8, weightDecay: 0, step: 1, maxNorm: 1 };
    const launches = async (run: () => void) => {
      await calls();
      run();
      return (await calls())[0];
    };
    const sequenceOffsets = device.tensor(Int32Array.of(0, 1000, 1500, 3000), [4], 'i32');
    const advantages = tensor(3, 1);
    const policy = { logProbs, advantages, sequenceOffsets };
    expect(await launches(() => policyLoss(policy))).toBe(1);
    const mask = device.tensor(new Int32Array(3000).fill(1), [3000], 'i32');
    // Its tokens are counted first, unless the caller knows how many there are.
    expect(await launches(() => policyLoss({ ...policy, mask }))).toBe(2);
    const denominators = { tokens: 3000, sequences: 3 };
    expect(await launches(() => policyLoss({ ...policy, mask }, { denominators }))).toBe(1);
    const group = { rewards, groupOffsets: groups, advantages: tensor(80), baseline: 0, scale: 0, epsilon: 1e-4 };
    expect(await launches(() => device.run('groupAdvantages', group))).toBe(1);
    const sampling = { logits, keys, ids, logProbs: sampled, temperature: 1, topK: 0, topP: 1, minP: 0 };
    expect(await launches(() => device.run('sample', sampling))).toBe(1);
    expect(await launches(() => device.run('sample', { ...sampling, topK: 9, topP: 0.9 }))).toBe(1);
    expect(await launches(() => device.run('globalNorm', { in: gradients, norm }))).toBe(1);
    const moments = { parameters: weights, gradients, firstMoment: first, secondMoment: second, norm };
    expect(await launches(() => device.run('adamw', { ...moments, ...scalars }))).toBe(1);
  });

  test('runs call by call, is captured at the second replay, and is one launch from then on', async () => {
    const { device, calls, liveGraphs } = await open();
    const x = device.tensor([1, 2, 3, 4], [2, 2]);
    const sum = device.zeros([2, 2]);
    const recording = device.record(() => {
      const product = device.empty([2, 2]);
      const copied = device.empty([2, 2]);
      device.run('matmul', { a: x, b: x, out: product, transposeA: 0, transposeB: 0, accumulate: 0 });
      device.run('copy', { in: product, out: copied });
      device.run('add', { a: sum, b: copied, out: sum, alpha: 1, beta: 1 });
    });
    await calls();
    recording.replay();
    expect(await calls()).toEqual([2, 1, 0]);
    expect(recording.statistics()).toEqual({ replays: 1, launches: 0, captures: 0, refusal: null });
    recording.replay();
    // The calls of the capture run nothing by themselves.
    expect(await calls()).toEqual([2, 1, 1]);
    for (let i = 0; i < 5; i++) recording.replay();
    expect(await calls()).toEqual([0, 0, 5]);
    expect(recording.statistics()).toEqual({ replays: 7, launches: 6, captures: 1, refusal: null });
    expect([...(await sum.read())]).toEqual([7, 10, 15, 22].map((entry) => 7 * entry));
    x.write([1, 0, 0, 1]);
    recording.replay();
    expect([...(await sum.read())]).toEqual([50, 70, 105, 155]);
    expect(await liveGraphs()).toBe(1);
    recording.dispose();
    expect(await liveGraphs()).toBe(0);
  });

  test('is captured again when scratch space has moved', async () => {
    const { device } = await open();
    const values = (n: number) =>
      device.tensor(
        Float32Array.from({ length: n }, (_, i) => i % 3),
        [n],
      );
    const x = values(1000);
    const norm = device.empty([1]);
    const recording = device.record(() => device.run('globalNorm', { in: x, norm }));
    for (let i = 0; i < 3; i++) recording.replay();
    const expected = await norm.read();
    expect(recording.statistics()).toMatchObject({ launches: 2, captures: 1 });
    // Takes more scratch space, at another address.
    const large = values(3_000_000);
    const other = device.empty([1]);
    device.run('globalNorm', { in: large, norm: other });
    norm.write([0]);
    recording.replay();
    recording.replay();
    expect(await norm.read()).toEqual(expected);
    expect(recording.statistics()).toMatchObject({ launches: 4, captures: 2 });
  });

  test('does not check indices: a row of one out of range stays, an embedding is NaN, attention too', async () => {
    const { device } = await open();
    const table = device.tensor([1, 2, 3, 4, 5, 6], [3, 2]);
    const ids = device.tensor([0, 2], [2], 'i32');
    const segments = device.tensor([0, 1, 1, 2, 2, 1, 0, 1], [2, 4], 'i32');
    let [rows, gathered, attended]: Tensor[] = [];
    const recording = device.record(() => {
      rows = device.empty([2, 2]);
      gathered = device.zeros([2, 2]);
      attended = device.empty([2, 2]);
      device.run('embedding', { table, ids, out: rows });
      device.run('gatherRows', { in: table, indices: ids, out: gathered });
      const heads = { headDim: 2, scale: 1, maxLength: 3 };
      device.run('cachedAttention', {
        queries: rows,
        keyCache: table,
        valueCache: table,
        segments,
        out: attended,
        ...heads,
      });
    });
    recording.replay();
    recording.replay();
    const good = await attended!.read();
    expect(good.every(Number.isFinite)).toBe(true);
    ids.write([0, 3]);
    segments.write([0, 1, 1, 2, 0, 2, 2_000_000, 2]);
    recording.replay();
    expect([...(await rows!.read())]).toEqual([1, 2, Number.NaN, Number.NaN]);
    expect([...(await gathered!.read())]).toEqual([1, 2, 0, 0]);
    expect([...(await attended!.read())]).toEqual([good[0], good[1], Number.NaN, Number.NaN]);
    // Outside a graph they are checked, by what they are now.
    device.run('embedding', { table, ids, out: rows! });
    await expect(rows!.read()).rejects.toThrow(KernelError);
  });

  test('what it writes to an index tensor is checked afterwards, not what was uploaded before', async () => {
    const { device } = await open();
    const ids = device.tensor([0, 1], [2], 'i32');
    const table = device.tensor([10, 20], [2, 1]);
    const out = device.empty([2, 1]);
    const recording = device.record(() => device.run('fill', { out: ids, value: 2 }));
    recording.replay();
    recording.replay();
    ids.write([0, 0]);
    recording.replay();
    device.run('embedding', { table, ids, out });
    await expect(out.read()).rejects.toThrow(/embedding: ids\[0\]: .* received 2/);
    expect(recording.statistics().launches).toBe(2);
  });

  test('stays call by call where an operation must wait for the host, and says so', async () => {
    const { device, calls } = await open();
    const rewards = device.tensor([1, 0, 0.5, 0.5], [4]);
    const groupOffsets = device.tensor([0, 2, 4], [3], 'i32');
    const advantages = device.empty([4]);
    const recording = device.record(() =>
      device.run('groupAdvantages', { rewards, groupOffsets, advantages, baseline: 0, scale: 2, epsilon: 0 }),
    );
    for (const values of [
      [1, 0, 2, 4],
      [3, 1, 0, 8],
      [0, 0, 4, 0],
    ]) {
      rewards.write(values);
      recording.replay();
      const mean = [0, 0, 2, 2].map((first) => (values[first]! + values[first + 1]!) / 2);
      expect([...(await advantages.read())]).toEqual(values.map((x, i) => x - mean[i]!));
    }
    expect(recording.statistics()).toEqual({
      replays: 3,
      launches: 0,
      captures: 0,
      refusal: 'group_advantages: it looks at the values of an index tensor on the host',
    });
    const gradHidden = device.empty([1, 1]);
    const [one, targets] = [device.tensor([1], [1]), device.tensor([0], [1], 'i32')];
    const inputs = { hidden: one.view([1, 1]), weight: one.view([1, 1]), targets, logSumExp: one, gradLogProbs: one };
    const settings = { temperature: 1, softcap: 0, workspaceBytes: 1 << 20 };
    using other = device.record(() =>
      device.run('linearTokenLogProbsBackward', { ...inputs, gradHidden, ...settings }),
    );
    other.replay();
    other.replay();
    await gradHidden.read();
    expect(other.statistics().refusal).toBe('linear_token_log_probs_backward: it reads values back to the host');
    // Nor is it tried again.
    await calls();
    recording.replay();
    const [kernels] = await calls();
    expect(kernels).toBe(1);
  });

  test('runs call by call as long as a tensor cannot be used, and launches its graph afterwards', async () => {
    vi.stubEnv('GRPO_CUDA_ON_CPU_MEMORY', String(96 << 20));
    const { device } = await open('cuda:1');
    const x = device.tensor([1, 2], [2]);
    let out!: Tensor;
    const recording = device.record(() => {
      out = device.empty([2]);
      device.run('add', { a: x, b: x, out, alpha: 1, beta: 1 });
    });
    for (let i = 0; i < 3; i++) recording.replay();
    expect([...(await out.read())]).toEqual([2, 4]);
    using much = device.empty([1 << 25]);
    device.run('copy', { in: much.view([2]), out: x });
    recording.replay();
    await expect(out.read()).rejects.toThrow(OutOfMemoryError);
    x.write([3, 4]);
    recording.replay();
    recording.replay();
    expect([...(await out.read())]).toEqual([6, 8]);
    expect(recording.statistics()).toEqual({ replays: 6, launches: 3, captures: 1, refusal: null });
  });

  test('generation draws the same tokens with graphs, and a step takes a launch and three copies', async () => {
    const { device, calls, liveGraphs } = await open();
    const policy = tinyPolicy({ device });
    const generate = async (maxNewTokens: number) => {
      await calls();
      const completions = await policy.generate(['12+7=', 'a'], { maxNewTokens, n: 3, seed: 5, stopTokenIds: [] });
      return { completions, calls: await calls() };
    };
    const tenMoreSteps = async () => {
      const [short, long] = [await generate(12), await generate(22)];
      return { completions: long.completions, calls: long.calls.map((count, i) => count - short.calls[i]!) };
    };
    const withGraphs = await tenMoreSteps();
    // The numbers of the rows in, tokens and log-probs out.
    expect(withGraphs.calls).toEqual([0, 30, 10]);
    expect(await liveGraphs()).toBe(0);
    vi.spyOn(device.backend, 'record').mockImplementation((recorded) => ({
      replay: () => {
        for (const { operation, tensors, scalars } of recorded) device.backend.run(operation, tensors, scalars);
      },
      release: () => {},
      statistics: () => ({ replays: 0, launches: 0, captures: 0, refusal: null }),
    }));
    const withoutGraphs = await tenMoreSteps();
    expect(withGraphs.completions).toEqual(withoutGraphs.completions);
    expect(withoutGraphs.calls).toEqual([280, 80, 0]);
    policy.dispose();
  });
});
