/// <reference types="@webgpu/types" preserve="true" />

import { convertsF16Exactly } from './f16-conversion.js';

/** What the shaders of a device may use beyond what every device has. */
export interface Abilities {
  /** Threads of the smallest subgroup and of the largest; null: they reduce through workgroup memory alone. */
  subgroups: { least: number; most: number } | null;
  /** Its own f16, which converts to the bit; else shaders convert by integers. */
  f16: boolean;
}

export const leastAbilities: Abilities = { subgroups: null, f16: false };

/** Features that are asked for, beyond the least, where the adapter has them. */
export const wantedFeatures = ['subgroups', 'shader-f16'] as const;

/** `language`: the features of WGSL, which are those of the `GPU` that the device comes from. */
export async function abilitiesOf(device: GPUDevice, language: WGSLLanguageFeatures | undefined): Promise<Abilities> {
  // Browsers that know no subgroups may have no adapterInfo.
  const { subgroupMinSize: least, subgroupMaxSize: most } = device.adapterInfo ?? {};
  // Without numbers of subgroups it is not certain which threads share one.
  const usable = device.features.has('subgroups') && language?.has('subgroup_id');
  return {
    subgroups: usable && least && most ? { least, most } : null,
    f16: device.features.has('shader-f16') && (await convertsF16Exactly(device)),
  };
}
