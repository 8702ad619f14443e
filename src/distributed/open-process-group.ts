import { glooLibraryPaths, loadAddon, ncclLibraryPaths } from '../backend/loader.js';
import { NativeBackend } from '../backend/native.js';
import { type BackendAttempt, BackendUnavailableError, InvalidArgumentError, UnsupportedError } from '../errors.js';
import type { Device } from '../tensor.js';
import { NativeProcessGroup } from './native-process-group.js';
import type { ProcessGroup, ProcessGroupOptions } from './process-group.js';

/**
 * Connects this process with the others of its run: every rank calls it, each with its own rank, and all get a group once
 * all have called it. Throws a `BackendUnavailableError` when the engine's library is missing and a `CollectiveError`
 * when a rank does not appear within the timeout.
 */
export async function openProcessGroup(options: ProcessGroupOptions): Promise<ProcessGroup> {
  const { device, rank, worldSize, localRank, store, timeoutSeconds = 600, signal } = options;
  checkNumbers(rank, worldSize, localRank, timeoutSeconds);
  const { backend } = device;
  if (!(backend instanceof NativeBackend)) throw new UnsupportedError('openProcessGroup', `the ${device.kind} backend`);
  const engine = engineFor(device, options.engine);
  const { binding, path } = loadAddon();
  const libraries = engine === 'gloo' ? glooLibraryPaths(path) : ncclLibraryPaths();
  const networkInterface = options.interface ?? '';
  const opening = [backend.engine, engine, rank, worldSize, timeoutSeconds, networkInterface, libraries] as const;
  const { group, address, attempts } = await binding.openGroup(...opening);
  if (!address) throw new BackendUnavailableError(engine, attempts, actionsFor(engine, attempts));
  const abort = () => binding.abortGroup(group, String((signal!.reason as Error)?.message ?? signal!.reason));
  signal?.addEventListener('abort', abort);
  try {
    signal?.throwIfAborted();
    await store.set(`address/${rank}`, address);
    const ranks = Array.from({ length: worldSize }, (_, other) => other);
    const addresses = await Promise.all(ranks.map((other) => store.get(`address/${other}`)));
    await binding.connectGroup(group, addresses);
  } catch (error) {
    binding.abortGroup(group, (error as Error).message);
    binding.releaseGroup(group);
    throw error;
  } finally {
    signal?.removeEventListener('abort', abort);
  }
  return new NativeProcessGroup(device, binding, group, { rank, worldSize, localRank, engine });
}

function checkNumbers(rank: number, worldSize: number, localRank: number, timeoutSeconds: number): void {
  if (!Number.isInteger(worldSize) || worldSize < 1)
    throw new InvalidArgumentError('worldSize', '1 or more', worldSize);
  for (const [name, value] of Object.entries({ rank, localRank })) {
    if (!Number.isInteger(value) || value < 0 || value >= worldSize) {
      throw new InvalidArgumentError(name, `an integer from 0 to ${worldSize - 1}`, value);
    }
  }
  if (!(timeoutSeconds > 0 && Number.isFinite(timeoutSeconds))) {
    throw new InvalidArgumentError('timeoutSeconds', 'a positive number', timeoutSeconds);
  }
}

/** Each engine moves memory of its own kind of device. */
export function engineFor(device: Device, asked?: 'gloo' | 'nccl'): 'gloo' | 'nccl' {
  const fitting = device.kind === 'cuda' ? 'nccl' : 'gloo';
  if (asked === undefined || asked === fitting) return fitting;
  if (asked !== 'gloo' && asked !== 'nccl') throw new InvalidArgumentError('engine', 'gloo or nccl', asked);
  throw new UnsupportedError(`engine ${asked}`, `a ${device.kind} device`, `Use ${fitting}.`);
}

function actionsFor(engine: 'gloo' | 'nccl', attempts: readonly BackendAttempt[]): string[] {
  const stages = new Set(attempts.map((attempt) => attempt.stage));
  if (engine === 'nccl') {
    if (stages.has('device')) return ['List the devices with nvidia-smi; each rank of a machine uses one of its own.'];
    return [
      'Install NCCL 2.14 or later (Debian, Ubuntu: libnccl2; PyPI: nvidia-nccl-cu12).',
      'Or set GRPO_NCCL_LIBRARY to the path of libnccl.so.2.',
    ];
  }
  if (stages.has('device'))
    return ['Correct the option interface: the name or an address of a network interface here.'];
  return [
    'Install Gloo and build the addon again: sudo apt-get install libgloo-dev && npm run build:native',
    'Or set GRPO_GLOO_LIBRARY to the path of libgrpo_gloo.so.',
  ];
}
