/// <reference types="@webgpu/types" preserve="true" />
import { BackendUnavailableError } from '../errors.js';

/** Dawn's WebGPU for Node, from the optional package `webgpu`. One for the process: each has threads of its own. */
export async function loadDawn(): Promise<GPU> {
  try {
    const { create } = await import('webgpu');
    gpu ??= create([]);
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

let gpu: GPU | undefined;
