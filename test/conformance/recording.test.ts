import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { singleProcessGroup } from '../../src/distributed/single-process-group.js';
import { DisposedError, InvalidArgumentError, KernelError, UnsupportedError } from '../../src/errors.js';
import { type Device, Scope, type Tensor } from '../../src/tensor.js';
import { testDevices } from '../devices.js';

describe.each(await testDevices())('a recording on $name', ({ open }) => {
  let device: Device;
  beforeAll(async () => {
    device = await open();
  });
  afterAll(async () => {
    await device.synchronize();
    expect(device.memory()).toMatchObject({ liveTensors: 0, liveBytes: 0 });
    device.close();
  });

  /** Doubles `x` `times` times, each time into a tensor of its own. */
  const doubled = (x: Tensor, times: number, scope?: Scope) => {
    let out = x;
    for (let i = 0; i < times; i++) {
      const next = device.empty(x.shape);
      device.run('add', { a: out, b: out, out: next, alpha: 1, beta: 1 });
      if (i > 0 && !scope) out.dispose();
      out = scope ? scope.track(next) : next;
    }
    return out;
  };

  test('carries nothing out before it is replayed, and then what its inputs hold', async () => {
    using x = device.tensor([1, 2, 3], [3]);
    using sum = device.zeros([3]);
    using recording = device.record(() => {
      device.run('add', { a: sum, b: x, out: sum, alpha: 1, beta: 1 });
    });
    expect([...(await sum.read())]).toEqual([0, 0, 0]);
    recording.replay();
    recording.replay();
    expect([...(await sum.read())]).toEqual([2, 4, 6]);
    for (let i = 1; i <= 5; i++) {
      x.write([i, 0, -i]);
      recording.replay();
    }
    expect([...(await sum.read())]).toEqual([17, 4, -9]);
    expect(recording.statistics().replays).toBe(7);
  });

  test('keeps the memory of its tensors, also of those that were disposed of afterwards', async () => {
    using x = device.tensor([1, 2], [2]);
    let inner!: Tensor;
    let out!: Tensor;
    const recording = device.record(() => {
      inner = doubled(x, 1);
      out = doubled(inner, 1);
    });
    inner.dispose();
    using other = device.tensor([7, 7], [2]);
    for (const value of [1, 5, 9]) {
      x.write([value, -value]);
      recording.replay();
      expect([...(await out.read())]).toEqual([4 * value, -4 * value]);
    }
    expect([...(await other.read())]).toEqual([7, 7]);
    recording.dispose();
    recording.dispose();
    expect(out.disposed).toBe(true);
    await expect(out.read()).rejects.toThrow(DisposedError);
    expect(() => recording.replay()).toThrow(new DisposedError('A recording'));
    expect(() => recording.statistics()).toThrow(DisposedError);
    out.dispose();
  });

  test('hands memory of what it disposes of to later tensors of the same size', async () => {
    const before = device.memory().liveTensors;
    using x = device.tensor([1, 2, 3, 4], [4]);
    let out!: Tensor;
    using recording = device.record(() => {
      out = doubled(x, 10);
    });
    expect(device.memory().liveTensors - before).toBe(1 + 2);
    recording.replay();
    expect([...(await out.read())]).toEqual([1024, 2048, 3072, 4096]);
    // A tensor whose memory went on is gone.
    let gone!: Tensor;
    using other = device.record(() => {
      gone = device.empty([4]);
      gone.dispose();
      device.empty([4]);
    });
    other.replay();
    await expect(gone.read()).rejects.toThrow(DisposedError);
  });

  test('gives the bits of the same calls without a recording', async () => {
    using scope = new Scope();
    const random = (n: number, shape: number[]) =>
      scope.track(
        device.tensor(
          Float32Array.from({ length: n }, (_, i) => Math.sin(i * 7.3)),
          shape,
        ),
      );
    const [a, b, weight] = [random(40 * 24, [40, 24]), random(48 * 24, [48, 24]), random(48, [48])];
    const compute = (out: Tensor) => {
      using inner = new Scope();
      const product = inner.track(device.empty([40, 48]));
      device.run('matmul', { a, b, out: product, transposeA: 0, transposeB: 1, accumulate: 0 });
      device.run('rmsNorm', { in: product, weight, out: product, epsilon: 1e-6 });
      device.run('swiglu', { gate: product, up: product, out });
    };
    const [plain, replayed] = [scope.track(device.empty([40, 48])), scope.track(device.empty([40, 48]))];
    using recording = device.record(() => compute(replayed));
    for (let i = 0; i < 4; i++) {
      a.write(Float32Array.from({ length: 40 * 24 }, (_, j) => Math.cos(j + i)));
      compute(plain);
      recording.replay();
      expect(await replayed.read()).toEqual(await plain.read());
    }
  });

  test('refuses what moves data, inside, and goes on afterwards', async () => {
    using x = device.tensor([1, 2], [2]);
    const group = singleProcessGroup(device);
    const refused: [string, () => unknown][] = [
      ['tensor', () => device.tensor([1], [1])],
      ['write', () => x.write([1, 2])],
      ['writeBytes', () => x.writeBytes(new Uint8Array(8))],
      ['record', () => device.record(() => {})],
      ['allReduce', () => group.allReduce(x)],
      ['tensorFromPointer', () => device.tensorFromPointer(1n, [1])],
    ];
    for (const [what, call] of refused) {
      const error = new UnsupportedError(what, 'a recording', 'Data goes in and out between replays');
      expect(() => device.record(call)).toThrow(error);
    }
    for (const read of ['read', 'readBytes'] as const) {
      let reading: Promise<unknown> | undefined;
      using _ = device.record(() => {
        reading = x[read]();
      });
      await expect(reading).rejects.toThrow(UnsupportedError);
    }
    expect(() => device.record(async () => {})).toThrow(InvalidArgumentError);
    expect(() => device.record(null as never)).toThrow(InvalidArgumentError);
    expect([...(await x.read())]).toEqual([1, 2]);
    await group.close();
  });

  test('that is given up leaves nothing behind', async () => {
    const before = device.memory().liveTensors;
    using x = device.tensor([1, 2], [2]);
    let made!: Tensor;
    const failing = () =>
      device.record(() => {
        made = doubled(x, 3);
        device.run('add', { a: x, b: made, out: null as never, alpha: 1, beta: 1 });
      });
    expect(failing).toThrow(InvalidArgumentError);
    expect(device.memory().liveTensors - before).toBe(1);
    await expect(made.read()).rejects.toThrow(DisposedError);
    made.dispose();
    expect([...(await x.read())]).toEqual([1, 2]);
  });

  test('refuses to replay once memory from outside is gone, and names it', async () => {
    const x = device.tensor([1, 2], [2]);
    const view = x.view([1], 1);
    let out!: Tensor;
    using recording = device.record(() => {
      out = doubled(view, 1);
    });
    // The memory is what counts, not the view.
    view.dispose();
    recording.replay();
    expect([...(await out.read())]).toEqual([4]);
    x.dispose();
    expect(() => recording.replay()).toThrow(/^add: a, of shape \[1\], of a recording was used after it was disposed$/);
    expect([...(await out.read())]).toEqual([4]);
  });

  test('uses the tensors of another one until that is disposed of', async () => {
    using x = device.tensor([3], [1]);
    let middle!: Tensor;
    let out!: Tensor;
    const first = device.record(() => {
      middle = doubled(x, 1);
    });
    using second = device.record(() => {
      out = doubled(middle, 1);
    });
    first.replay();
    second.replay();
    expect([...(await out.read())]).toEqual([12]);
    first.dispose();
    expect(() => second.replay()).toThrow(DisposedError);
  });

  test('an error of an operation marks what it writes, until a replay succeeds', async () => {
    using table = device.tensor([10, 20, 30], [3, 1]);
    using indices = device.tensor([2, 0], [2], 'i32');
    let rows!: Tensor;
    let out!: Tensor;
    let untouched!: Tensor;
    using recording = device.record(() => {
      rows = device.empty([2, 1]);
      device.run('gatherRows', { in: table, indices, out: rows });
      out = doubled(rows, 1);
      untouched = doubled(table, 1);
    });
    const replay = () => {
      recording.replay();
      return out.read();
    };
    indices.write([0, 3]);
    await expect(replay()).rejects.toThrow(KernelError);
    await expect(rows.read()).rejects.toThrow(/gatherRows: indices\[1\]/);
    expect([...(await untouched.read())]).toEqual([20, 40, 60]);
    indices.write([1, 1]);
    expect([...(await replay())]).toEqual([40, 40]);
    // From the next replay on CUDA launches a graph, which checks no indices (test/unit/backend/cuda.test.ts).
    if (device.kind === 'cuda') return;
    indices.write([-1, 0]);
    await expect(replay()).rejects.toThrow(/gatherRows: indices\[0\]/);
  });

  test('takes no memory for further replays', async () => {
    using x = device.tensor(new Float32Array(1000).fill(1), [1000]);
    using recording = device.record(() => {
      doubled(x, 5);
    });
    recording.replay();
    await device.synchronize();
    const before = device.memory();
    for (let i = 0; i < 200; i++) recording.replay();
    await device.synchronize();
    expect(device.memory()).toEqual(before);
  });

  test('ends with its device', async () => {
    const own = await open();
    const x = own.zeros([4]);
    const recording = own.record(() => own.run('fill', { out: x, value: 1 }));
    recording.replay();
    own.close();
    expect(() => recording.replay()).toThrow(DisposedError);
    recording.dispose();
  });
});
