/** Copies of a buffer on the GPU: what the memory of an adapter can do at best. */
export interface Copies {
  bytes: number;
  ways: Record<'by the queue' | 'by a shader', () => void>;
  dispose(): void;
}

const threads = 256;

/** Copies of `bytes`, or of what one binding covers. */
export function prepareCopies(gpuDevice: GPUDevice, bytes: number): Copies {
  const { maxStorageBufferBindingSize, maxComputeWorkgroupsPerDimension: most } = gpuDevice.limits;
  const whole = 16 * threads;
  const size = Math.max(whole, Math.floor(Math.min(bytes, maxStorageBufferBindingSize) / whole) * whole);
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const [from, to] = [gpuDevice.createBuffer({ size, usage }), gpuDevice.createBuffer({ size, usage })];
  const module = gpuDevice.createShaderModule({
    code: `
      @group(0) @binding(0) var<storage, read> source: array<vec4u>;
      @group(0) @binding(1) var<storage, read_write> target_: array<vec4u>;
      @compute @workgroup_size(${threads})
      fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
              @builtin(local_invocation_index) thread: u32) {
        let i = (workgroup.y * workgroups.x + workgroup.x) * ${threads}u + thread;
        if (i < arrayLength(&source)) { target_[i] = source[i]; }
      }`,
  });
  const pipeline = gpuDevice.createComputePipeline({ layout: 'auto', compute: { module } });
  const entries = [from, to].map((buffer, binding) => ({ binding, resource: { buffer } }));
  const bindGroup = gpuDevice.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
  const submit = (record: (encoder: GPUCommandEncoder) => void) => () => {
    const encoder = gpuDevice.createCommandEncoder();
    record(encoder);
    gpuDevice.queue.submit([encoder.finish()]);
  };
  const workgroups = size / whole;
  const across = Math.min(workgroups, most);
  return {
    bytes: size,
    ways: {
      'by the queue': submit((encoder) => encoder.copyBufferToBuffer(from, 0, to, 0, size)),
      'by a shader': submit((encoder) => {
        const pass = encoder.beginComputePass();
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, bindGroup);
        pass.dispatchWorkgroups(across, Math.ceil(workgroups / across));
        pass.end();
      }),
    },
    dispose() {
      from.destroy();
      to.destroy();
    },
  };
}
