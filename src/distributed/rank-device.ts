import { ConfigError } from '../trainer/parse-config.js';
import type { LaunchEnvironment } from './launch-environment.js';

export interface DeviceChoice {
  /** `auto`, `cpu`, `cuda`, `cuda:1` or `webgpu`. */
  device: string;
  /** A device for each process of a machine, by local rank; null: `device` says it. */
  devices: readonly string[] | null;
}

/** What the machine has, as far as the choice depends on it. */
export interface Machine {
  hasCuda: () => Promise<boolean>;
  /** CUDA_VISIBLE_DEVICES. */
  visibleDevices: string | undefined;
}

/** The device of one process of a run. Throws a `ConfigError` where the settings contradict each other. */
export async function deviceOfRank(
  { device, devices }: DeviceChoice,
  environment: Pick<LaunchEnvironment, 'localRank' | 'worldSize'> | null,
  machine: Machine,
): Promise<string> {
  const { localRank, worldSize } = environment ?? { localRank: 0, worldSize: 1 };
  if (devices) {
    const problems = [...listProblems(device, devices, localRank)];
    if (problems.length > 0) throw new ConfigError('config', problems);
    return devices[localRank]!;
  }
  if (worldSize === 1) return device;
  if (device === 'cpu') return device;
  // A launcher that shows each process a single device has numbered it 0.
  const visible = machine.visibleDevices?.split(',').filter((name) => name.trim() !== '').length;
  const own = `cuda:${visible === 1 ? 0 : localRank}`;
  if (device === 'cuda') return own;
  if (device === 'auto') return (await machine.hasCuda()) ? own : 'cpu';
  const instead = device === 'webgpu' ? 'cpu or cuda' : 'cuda, or devices with one for each process of a machine';
  throw new ConfigError('config', [
    `device: ${device} is one device, but the run has ${worldSize} processes; use ${instead}`,
  ]);
}

/**
 * Where the reference policy of a rank is kept; null: on the device of its policy. Several ranks may share a device.
 */
export function referenceDeviceOfRank(
  { referenceDevices: devices, beta }: { referenceDevices: readonly string[] | null; beta: number },
  localRank: number,
): string | null {
  if (!devices) return null;
  const problems = devices.flatMap((name, i) =>
    isDevice(name) ? [] : [`referenceDevices[${i}]: must be cpu or cuda:<number>, got ${JSON.stringify(name)}`],
  );
  if (beta === 0) problems.push('referenceDevices: needs beta above 0; without it there is no reference');
  if (localRank >= devices.length) problems.push(tooShort('referenceDevices', devices, localRank));
  if (problems.length > 0) throw new ConfigError('config', problems);
  return devices[localRank]!;
}

function isDevice(name: string): boolean {
  return /^(cpu|cuda:\d+)$/.test(name);
}

function tooShort(option: string, devices: readonly string[], localRank: number): string {
  const entries = `${devices.length} ${devices.length === 1 ? 'entry' : 'entries'}`;
  return `${option}: has ${entries}, but this is local rank ${localRank} (the one at number ${localRank + 1})`;
}

function* listProblems(device: string, devices: readonly string[], localRank: number): Generator<string> {
  if (device !== 'auto') yield `devices: cannot be set together with device ${device}`;
  for (const [i, name] of devices.entries()) {
    const first = devices.indexOf(name);
    if (!/^(cpu|cuda:\d+)$/.test(name))
      yield `devices[${i}]: must be cpu or cuda:<number>, got ${JSON.stringify(name)}`;
    else if (name !== 'cpu' && first < i) yield `devices[${i}]: ${name} is the device of local rank ${first} already`;
    else if (name.startsWith('cuda') !== devices[0]!.startsWith('cuda')) {
      yield `devices[${i}]: ${name} cannot exchange gradients with ${devices[0]} of local rank 0`;
    }
  }
  if (localRank >= devices.length) yield tooShort('devices', devices, localRank);
}
