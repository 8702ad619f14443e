import { readFile } from 'node:fs/promises';
import { openDevice } from '../backend/open-device.js';
import { GrpoError } from '../errors.js';
import type { ActivationDType } from '../models/activations.js';
import { CausalLM, type WeightDType } from '../models/causal-lm.js';
import type { Device } from '../tensor.js';

export interface ModelFlags {
  model: string;
  device: string;
  dtype: WeightDType;
  activations?: ActivationDType;
  threads?: number | null;
}

/** Opens the device, loads the model, and frees both when the work is done or has failed. */
export async function withModel<T>(
  flags: ModelFlags,
  work: (policy: CausalLM, device: Device) => Promise<T>,
): Promise<T> {
  const device = await openDevice(flags.device, { threads: flags.threads ?? undefined });
  try {
    const policy = await CausalLM.load(flags.model, { device, dtype: flags.dtype, activations: flags.activations });
    try {
      return await work(policy, device);
    } finally {
      policy.dispose();
    }
  } finally {
    device.close();
  }
}

/** A file that a person named: what is wrong with it is a message, not a stack. */
export async function readInput(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    const reason =
      (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'there is no such file' : (error as Error).message;
    throw new GrpoError('GRPO_INPUT', `${path}: ${reason}`, { cause: error });
  }
}
