/// <reference types="@webgpu/types" preserve="true" />
import { inErrorScopes } from './error-scopes.js';
import { bufferUsage, mapModeRead } from './usage.js';
import { wgslSources } from './wgsl-sources.js';

const numbers = 2 ** 16;
const { STORAGE, COPY_SRC, COPY_DST, MAP_READ } = bufferUsage;

/** Whether the instructions of a device with shader-f16 convert every f16 number to the bit (f16_probe.wgsl). */
export async function convertsF16Exactly(device: GPUDevice, native = wgslSources.f16_native): Promise<boolean> {
  const exact = device.createBuffer({ size: 4, usage: STORAGE | COPY_SRC });
  const staging = device.createBuffer({ size: 4, usage: COPY_DST | MAP_READ });
  try {
    const { error } = inErrorScopes(device, () => {
      const { storage, f16_probe } = wgslSources;
      const module = device.createShaderModule({ code: ['enable f16;', storage, native, f16_probe].join('\n') });
      const pipeline = device.createComputePipeline({ layout: 'auto', compute: { module } });
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      const entries = [{ binding: 0, resource: { buffer: exact } }];
      pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
      pass.dispatchWorkgroups(numbers / 256);
      pass.end();
      encoder.copyBufferToBuffer(exact, 0, staging, 0, 4);
      device.queue.submit([encoder.finish()]);
    });
    if (await error) return false;
    await staging.mapAsync(mapModeRead);
    return new Uint32Array(staging.getMappedRange())[0] === numbers;
  } catch {
    return false; // a device that is lost says so where it is used
  } finally {
    exact.destroy();
    staging.destroy();
  }
}
