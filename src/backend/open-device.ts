import { availableParallelism } from 'node:os';
import process from 'node:process';
import { type BackendAttempt, BackendUnavailableError, InvalidArgumentError } from '../errors.js';
import { Device } from '../tensor.js';
import type { OpenAnswer } from './binding.js';
import { loadDawn } from './dawn.js';
import { cudaLibraryPaths, loadAddon } from './loader.js';
import { NativeBackend } from './native.js';
import { adapterName, openWebGpuAdapter, openWebGpuDevice, requestWebGpuAdapter } from './webgpu/open.js';

export type DeviceKind = 'cpu' | 'cuda' | 'webgpu';

export interface OpenDeviceOptions {
  /** Threads that CPU kernels use: GRPO_THREADS, else all that the process may use. */
  threads?: number;
  /** Instruction set of the CPU kernels: the best that the processor has. */
  isa?: 'baseline' | 'avx2' | 'avx512';
  /**
   * Matrix products of the CPU. Default: OpenBLAS when the machine has one that uses what its processor has, else the
   * built-in kernel; `device.backend.details.matmul` says why.
   */
  matmul?: 'openblas' | 'builtin';
}

export interface DeviceInfo {
  kind: DeviceKind;
  available: boolean;
  /** Why it is, or is not, available. */
  reason: string;
  name: string;
  attempts: BackendAttempt[];
}

/**
 * Opens a device: `auto` (a CUDA device when there is one, else the CPU; `device.why` says which and why), `cpu`, `cuda`,
 * `cuda:1` (the second), `webgpu` (a hardware adapter), `webgpu:software` (any adapter, hardware first),
 * `webgpu:llvmpipe` (the first adapter whose name has that part). Throws a `BackendUnavailableError` with all that was
 * tried when there is none.
 */
export async function openDevice(name = 'auto', options: OpenDeviceOptions = {}): Promise<Device> {
  const match = /^(auto|cpu|cuda(?::(\d+))?|webgpu(?::(.+))?)$/.exec(String(name));
  if (!match) {
    const expected = "'auto', 'cpu', 'cuda', 'cuda:<number>', 'webgpu', 'webgpu:software' or 'webgpu:<part of a name>'";
    throw new InvalidArgumentError('device', expected, name);
  }
  const kind = match[1]!.split(':')[0]!;
  const backendOptions = cpuOptions(options);
  if (kind === 'cpu') return openNative('cpu', 0, backendOptions, 'the CPU was asked for');
  if (kind === 'cuda') {
    refuseCpuOptions(options, name);
    return openNative('cuda', Number(match[2] ?? 0), '', `${name} was asked for`);
  }
  if (kind === 'webgpu') {
    refuseCpuOptions(options, name);
    return openNamedWebGpu(match[3], `${name} was asked for`);
  }
  return openBest(options, backendOptions);
}

/** What this machine offers. Never throws. */
export async function availableDevices(): Promise<DeviceInfo[]> {
  return [await probe('cpu'), await probe('cuda'), (await probeWebGpu()).info];
}

async function openBest(options: OpenDeviceOptions, backendOptions: string): Promise<Device> {
  if (Object.values(options).some((value) => value !== undefined)) {
    return openNative('cpu', 0, backendOptions, 'auto chose the CPU because options for the CPU were given');
  }
  const cuda = await probe('cuda');
  if (cuda.available) return openNative('cuda', 0, '', `auto chose CUDA: ${cuda.reason}`);
  const { adapter, info: webgpu } = await probeWebGpu();
  if (adapter) {
    const { wgslLanguageFeatures } = await loadDawn();
    const why = `auto chose WebGPU: ${cuda.reason}; ${webgpu.reason}`;
    return openWebGpuAdapter(adapter, wgslLanguageFeatures, 'adapter', why);
  }
  return openNative('cpu', 0, backendOptions, `auto chose the CPU: ${cuda.reason}; ${webgpu.reason}`);
}

/** Without a name, hardware only; `software` is any adapter, hardware first; else the first adapter of that name. */
async function openNamedWebGpu(name: string | undefined, why: string): Promise<Device> {
  const byName = name !== undefined && name !== 'software';
  const gpu = await loadDawn(byName ? `adapter=${name}` : '');
  return openWebGpuDevice({ gpu, software: name !== undefined }, why);
}

async function openNative(kind: 'cpu' | 'cuda', ordinal: number, options: string, why: string): Promise<Device> {
  const { binding, path } = loadAddon();
  const answer = await binding.open(kind, ordinal, options, kind === 'cuda' ? cudaLibraryPaths(path) : []);
  if (!answer.description) throw new BackendUnavailableError(kind, answer.attempts, actionsFor(kind, answer));
  const lines = answer.description.split('\n').map((line) => line.split(/=(.*)/s).slice(0, 2) as [string, string]);
  const details = Object.fromEntries(lines);
  const name =
    kind === 'cpu' ? `cpu (${details.isa}, ${details.threads} threads)` : `cuda:${ordinal} (${details.name})`;
  return new Device(new NativeBackend(binding, answer.engine, kind, name, details), why);
}

async function probe(kind: 'cpu' | 'cuda'): Promise<DeviceInfo> {
  try {
    const { binding, path } = loadAddon();
    const libraries = kind === 'cuda' ? cudaLibraryPaths(path) : [];
    const answer = await binding.open(kind, -1, '', libraries);
    if (answer.deviceCount > 0) {
      const reason = kind === 'cpu' ? 'every machine has one' : `${answer.deviceCount} CUDA device(s) found`;
      return { kind, available: true, reason, name: kind, attempts: answer.attempts };
    }
    const { attempts } = answer;
    // Each library that could not be loaded is an attempt; fewer than all means that one was. Opening a device then tells
    // more than that there is none: that there is no driver, or one that is too old.
    if (attempts.length < libraries.length) {
      const opened = await binding.open(kind, 0, '', libraries);
      if (opened.description) binding.close(opened.engine);
      const none = { path: kind, stage: 'device', message: 'the driver reports no CUDA device' } as const;
      attempts.push(opened.attempts.find(({ stage }) => stage === 'device') ?? none);
    }
    return { kind, available: false, name: kind, ...explain(attempts) };
  } catch (error) {
    return unavailable(kind, error);
  }
}

function unavailable(kind: DeviceKind, error: unknown): DeviceInfo {
  if (error instanceof BackendUnavailableError)
    return { kind, available: false, name: kind, ...explain(error.attempts) };
  return { kind, available: false, name: kind, reason: (error as Error).message, attempts: [] };
}

/** The attempts, and in one line what stopped the last of them. */
function explain(attempts: BackendAttempt[]): { reason: string; attempts: BackendAttempt[] } {
  const last = attempts.at(-1)!;
  return { reason: last.path.includes('/') ? `${last.path}: ${last.message}` : last.message, attempts };
}

function actionsFor(kind: 'cpu' | 'cuda', answer: OpenAnswer): string[] {
  if (kind === 'cpu') return ['Correct the options threads, isa and matmul, or leave them out.'];
  const stages = new Set(answer.attempts.map((attempt) => attempt.stage));
  if (stages.has('device')) return ["List the devices with nvidia-smi, or use openDevice('cpu')."];
  if (answer.attempts.length === 0)
    return ['The driver reports no CUDA device: check nvidia-smi and CUDA_VISIBLE_DEVICES.'];
  return [
    'Build the CUDA library with npm run build:cuda on a machine with the CUDA toolkit.',
    'Or set GRPO_CUDA_LIBRARY to the path of libgrpo_cuda.so.',
    "Or use openDevice('cpu').",
  ];
}

async function probeWebGpu(): Promise<{ adapter: GPUAdapter | null; info: DeviceInfo }> {
  try {
    const adapter = await requestWebGpuAdapter({ gpu: await loadDawn() });
    const reason = `the adapter ${adapterName(adapter)}`;
    return { adapter, info: { kind: 'webgpu', available: true, reason, name: 'webgpu', attempts: [] } };
  } catch (error) {
    return { adapter: null, info: unavailable('webgpu', error) };
  }
}

/** Checks the options and writes them as the backend reads them. */
function cpuOptions(options: OpenDeviceOptions): string {
  const known = ['threads', 'isa', 'matmul'];
  const unknown = Object.keys(options).find((key) => !known.includes(key));
  if (unknown) throw new InvalidArgumentError('openDevice options', known.join(', '), unknown);
  const threads = options.threads ?? threadsFromEnvironment() ?? availableParallelism();
  if (!Number.isInteger(threads) || threads < 1 || threads > 1024) {
    throw new InvalidArgumentError('threads', 'an integer from 1 to 1024', threads);
  }
  const choices = { isa: ['baseline', 'avx2', 'avx512'], matmul: ['openblas', 'builtin'] } as const;
  const parts = [`threads=${threads}`];
  for (const [key, allowed] of Object.entries(choices)) {
    const value = options[key as keyof typeof choices];
    if (value === undefined) continue;
    if (!(allowed as readonly string[]).includes(value))
      throw new InvalidArgumentError(key, allowed.join(' or '), value);
    parts.push(`${key}=${value}`);
  }
  return parts.join(';');
}

function refuseCpuOptions(options: OpenDeviceOptions, device: string): void {
  const given = Object.entries(options).find(([, value]) => value !== undefined);
  if (given) throw new InvalidArgumentError(`openDevice('${device}') options`, 'none (they are for the CPU)', given[0]);
}

function threadsFromEnvironment(): number | undefined {
  const text = process.env.GRPO_THREADS;
  if (!text) return undefined;
  const threads = Number(text);
  if (!Number.isInteger(threads)) throw new InvalidArgumentError('GRPO_THREADS', 'an integer', text);
  return threads;
}
