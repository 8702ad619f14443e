import { existsSync } from 'node:fs';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { loadDawn } from '../src/backend/dawn.js';
import { openDevice } from '../src/backend/open-device.js';
import { openWebGpuDevice } from '../src/backend/webgpu/open.js';
import { BackendUnavailableError } from '../src/errors.js';
import type { Device } from '../src/tensor.js';

export interface TestDevice {
  name: string;
  open(threads?: number): Promise<Device>;
}

/**
 * The devices of this machine that a suite should run on: the CPU with each instruction set that the processor has and
 * each matrix product that is installed, every WebGPU adapter, in software or not, with the least that WebGPU
 * guarantees, CUDA's kernels on the processor, and a CUDA device where there is one.
 *
 * `features`: also every WebGPU adapter with all that it offers: limits, subgroups, f16. For all suites that is some 300 s
 * of the processor on an adapter in software. Those that ask for it, some 110 s, are one for each kind of shader that
 * differs; test/unit/backend/webgpu-features.test.ts compares the bits of norms, log-probs, attention and sampling.
 */
export async function testDevices({ features = false } = {}): Promise<TestDevice[]> {
  const found: TestDevice[] = [];
  for (const isa of ['baseline', 'avx2', 'avx512'] as const) {
    for (const matmul of ['builtin', 'openblas'] as const) {
      const open = (threads = 2) => openDevice('cpu', { isa, matmul, threads });
      if (await canOpen(open)) found.push({ name: `cpu ${isa} ${matmul}`, open });
    }
  }
  // The matrix product of WebGPU is the only one, and has the same rows in every batch, as the one built in for the CPU.
  for (const adapter of await adapterNames()) {
    const open = async (limits: 'minimum' | 'adapter') =>
      openWebGpuDevice({ gpu: await loadDawn(`adapter=${adapter}`), software: true, limits });
    if (!(await canOpen(() => open('minimum')))) continue;
    // Vitest cuts long names short: what tells devices apart comes first.
    found.push({ name: `webgpu minimum ${adapter} builtin`, open: () => open('minimum') });
    if (features) found.push({ name: `webgpu everything ${adapter} builtin`, open: () => open('adapter') });
  }
  // The kernels of CUDA, built for the processor; so is their matrix product.
  if (existsSync(cudaOnCpu.library)) found.push({ name: 'cuda-on-cpu builtin', open: () => openCudaOnCpu() });
  if (await canOpen(() => openDevice('cuda'))) found.push({ name: 'cuda cublas', open: () => openDevice('cuda') });
  return found;
}

/** An object of WebGPU with other values of some members. */
export function seenWith<T extends object>(object: T, changed: Partial<T>): T {
  return new Proxy(object, {
    get(target, key) {
      if (key in changed) return changed[key as keyof T];
      const value = target[key as keyof T];
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

const built = fileURLToPath(new URL('../build-cuda-on-cpu/', import.meta.url));
export const cudaOnCpu = { library: `${built}libgrpo_cuda.so`, cublas: `${built}libcublas.so` };

/** A device of the library that test/cuda-on-cpu stands in for CUDA in. `shared`: bytes of shared memory of a block. */
export async function openCudaOnCpu({
  name = 'cuda',
  cublas = cudaOnCpu.cublas,
  shared = 227 << 10,
} = {}): Promise<Device> {
  const names = {
    GRPO_CUDA_LIBRARY: cudaOnCpu.library,
    GRPO_CUBLAS_LIBRARY: cublas,
    GRPO_CUDA_ON_CPU_SHARED: String(shared),
  };
  const before = Object.fromEntries(Object.keys(names).map((name) => [name, process.env[name]]));
  Object.assign(process.env, names);
  try {
    return await openDevice(name);
  } finally {
    for (const [name, value] of Object.entries(before)) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
}

/**
 * The names of this machine's adapters, as `adapter=` knows them; none where Dawn cannot be loaded. Dawn tells them only
 * in the error about a name that it does not find.
 */
export async function adapterNames(): Promise<string[]> {
  try {
    await (await loadDawn('adapter=?')).requestAdapter();
  } catch (error) {
    return [...String((error as Error).message ?? error).matchAll(/name: '([^']*)'/g)].map(([, name]) => name!);
  }
  return [];
}

async function canOpen(open: () => Promise<Device>): Promise<boolean> {
  try {
    (await open()).close();
    return true;
  } catch (error) {
    if (error instanceof BackendUnavailableError) return false;
    throw error;
  }
}
