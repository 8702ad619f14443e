/// <reference types="@webgpu/types" preserve="true" />
import { BackendUnavailableError } from '../errors.js';

/** f16 arithmetic on NVIDIA, which Dawn keeps back unless it is asked for. */
const features = 'enable-dawn-features=vulkan_enable_f16_on_nvidia';

/**
 * Dawn's WebGPU for Node, from the optional package `webgpu`: one for the process and choice, since each has threads of
 * its own. `choice` is an option of Dawn: `adapter=<part of a name>`, or `backend=null`, which compiles and computes
 * nothing. Without it Dawn puts hardware before adapters that compute on the processor.
 */
export async function loadDawn(choice = ''): Promise<GPU> {
  try {
    const { create } = await import('webgpu');
    const gpu = opened.get(choice) ?? create(choice ? [choice, features] : [features]);
    opened.set(choice, gpu);
    return gpu;
  } catch (error) {
    const attempt = { path: 'webgpu', stage: 'load', message: (error as Error).message } as const;
    throw new BackendUnavailableError(
      'webgpu',
      [attempt],
      ['Install it: npm install webgpu@0.6.2 (other versions are not tested).', "Or use openDevice('cpu')."],
    );
  }
}

const opened = new Map<string, GPU>();
