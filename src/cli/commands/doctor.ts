import { cpus, totalmem } from 'node:os';
import { loadAddon } from '../../backend/loader.js';
import type { NativeBackend } from '../../backend/native.js';
import { availableDevices, openDevice } from '../../backend/open-device.js';
import type { Device } from '../../tensor.js';
import { packageVersion } from '../version.js';

interface Diagnosis {
  version: string;
  node: string;
  platform: string;
  processor: string;
  memoryGiB: number;
  addon: string;
  devices: { kind: string; available: boolean; reason: string }[];
  /** Of the device that `auto` chooses; null when there is none. */
  chosen: { name: string; why: string; details: Record<string, string>; selfTest: SelfTest } | null;
}

interface SelfTest {
  passed: boolean;
  /** Relative error of sampled entries of a product against float64. */
  largestError: number;
  gigaflopsPerSecond: number;
  copyGigabytesPerSecond: number;
}

/** Prints what this machine offers. Returns 0 when a device works. */
export async function doctor({ json = false }: { json?: boolean }): Promise<number> {
  const diagnosis = await diagnose();
  process.stdout.write(json ? `${JSON.stringify(diagnosis, null, 2)}\n` : describe(diagnosis));
  return diagnosis.chosen?.selfTest.passed ? 0 : 1;
}

async function diagnose(): Promise<Diagnosis> {
  const devices = (await availableDevices()).map(({ kind, available, reason }) => ({ kind, available, reason }));
  return {
    version: packageVersion,
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    processor: cpus()[0]?.model.trim() ?? 'unknown',
    memoryGiB: totalmem() / 2 ** 30,
    addon: addonPath(),
    devices,
    chosen: devices.some((device) => device.available) ? await tryDevice() : null,
  };
}

function addonPath(): string {
  try {
    return loadAddon().path;
  } catch (error) {
    return (error as Error).message;
  }
}

async function tryDevice(): Promise<Diagnosis['chosen']> {
  const device = await openDevice('auto');
  try {
    const { details } = device.backend as NativeBackend;
    return { name: device.name, why: device.why, details, selfTest: await selfTest(device) };
  } finally {
    device.close();
  }
}

const size = 768;

/** A product and a copy, checked and timed. */
async function selfTest(device: Device): Promise<SelfTest> {
  const a = Float32Array.from({ length: size * size }, (_, i) => (((i * 37) % 61) - 30) / 31);
  const b = Float32Array.from({ length: size * size }, (_, i) => (((i * 53) % 67) - 33) / 31);
  using left = device.tensor(a, [size, size]);
  using right = device.tensor(b, [size, size]);
  using product = device.zeros([size, size]);
  const multiply = () =>
    device.run('matmul', { a: left, b: right, bias: null, out: product, transposeA: 0, transposeB: 0, accumulate: 0 });
  multiply();
  const largestError = largestProductError(a, b, (await product.read()) as Float32Array);
  const productSeconds = await bestSeconds(device, multiply);

  using source = device.zeros([2 ** 24]);
  using target = device.zeros([2 ** 24]);
  const copySeconds = await bestSeconds(device, () => device.run('copy', { in: source, out: target }));
  return {
    passed: largestError < 1e-5,
    largestError,
    gigaflopsPerSecond: (2 * size ** 3) / productSeconds / 1e9,
    copyGigabytesPerSecond: (2 * 2 ** 24 * 4) / copySeconds / 1e9,
  };
}

function largestProductError(a: Float32Array, b: Float32Array, product: Float32Array): number {
  let largest = 0;
  for (let entry = 0; entry < size * size; entry += 997) {
    const row = Math.floor(entry / size);
    const column = entry % size;
    let truth = 0;
    let scale = 0;
    for (let k = 0; k < size; k++) {
      const term = a[row * size + k]! * b[k * size + column]!;
      truth += term;
      scale += Math.abs(term);
    }
    largest = Math.max(largest, Math.abs(product[entry]! - truth) / scale);
  }
  return largest;
}

async function bestSeconds(device: Device, work: () => void): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let trial = 0; trial < 5; trial++) {
    const begin = performance.now();
    work();
    await device.synchronize();
    best = Math.min(best, (performance.now() - begin) / 1000);
  }
  return best;
}

function describe(d: Diagnosis): string {
  const lines = [
    `grpo-native ${d.version}, Node ${d.node}, ${d.platform}`,
    `Processor   ${d.processor}, ${d.memoryGiB.toFixed(1)} GiB of memory`,
    `Addon       ${d.addon.replaceAll('\n', '\n            ')}`,
    '',
    'Devices',
    ...d.devices.map(({ kind, available, reason }) => `  ${available ? '+' : '-'} ${kind.padEnd(8)}${reason}`),
  ];
  if (d.chosen) {
    const { name, why, details, selfTest } = d.chosen;
    const verdict = selfTest.passed ? 'passed' : 'FAILED';
    lines.push(
      '',
      `Chosen      ${name}: ${why}`,
      ...Object.entries(details).map(([key, value]) => `  ${key.padEnd(10)}${value}`),
      '',
      `Self-test   ${verdict}: a product of two ${size} x ${size} matrices, relative error ${selfTest.largestError.toExponential(1)}`,
      `            ${selfTest.gigaflopsPerSecond.toFixed(0)} GFLOP/s in float32, ${selfTest.copyGigabytesPerSecond.toFixed(1)} GB/s read and written by a copy`,
    );
  }
  return `${lines.join('\n')}\n`;
}
