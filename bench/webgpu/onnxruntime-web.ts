/** onnxruntime-web's WebGPU execution provider on the same GPUDevice, reading the same buffers. */
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import type * as Ort from 'onnxruntime-web';
import { graphs } from './onnx-graphs.js';
import { encodeModel } from './onnx-model.js';
import { type Side, sample } from './side.js';

const ortTypes = { f32: 'float32', i32: 'int32' } as const;

export async function onnxRuntimeSide(gpuDevice: GPUDevice): Promise<Side & { close(): void }> {
  acceptSharedMemory(gpuDevice.queue);
  // Nothing else keeps Node alive while it waits for the GPU.
  const alive = setInterval(() => {}, 1000);
  const ort = (await import('onnxruntime-web/webgpu')) as typeof Ort;
  const wasm = createRequire(import.meta.url).resolve('onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm');
  ort.env.logLevel = 'error';
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = (await readFile(wasm)) as never;
  return {
    name: `onnxruntime-web ${ort.env.versions.web}`,
    async prepare(operation, inputs) {
      const model = graphs[operation](inputs);
      const session = await ort.InferenceSession.create(encodeModel(model), {
        executionProviders: [{ name: 'webgpu', device: gpuDevice }],
        preferredOutputLocation: 'gpu-buffer',
        // An operator without a kernel for the GPU is an error, rather than run on the processor.
        extra: { session: { disable_cpu_ep_fallback: '1' } },
      });
      const feeds: Record<string, Ort.Tensor> = {};
      for (const { name, dtype, shape } of model.inputs) {
        const { buffer } = inputs[name]!;
        feeds[name] = ort.Tensor.fromGpuBuffer(buffer!, { dataType: ortTypes[dtype as 'f32' | 'i32'], dims: shape });
      }
      let results: Record<string, Ort.Tensor> = {};
      const free = () => {
        for (const tensor of Object.values(results)) tensor.dispose();
        results = {};
      };
      return {
        async queue() {
          free();
          results = await session.run(feeds);
        },
        wait: () => gpuDevice.queue.onSubmittedWorkDone(),
        async results() {
          const parts: Record<string, Float32Array> = {};
          for (const [key, { gpuBuffer, size }] of Object.entries(results)) {
            parts[key] = await sample(size, (begin, length) =>
              readFloats(gpuDevice, gpuBuffer as GPUBuffer, begin, length),
            );
          }
          return parts;
        },
        dispose() {
          free();
          void session.release();
        },
      };
    },
    close: () => clearInterval(alive),
  };
}

/**
 * Its WebAssembly memory is shared, which `writeBuffer` of a browser takes and that of Dawn in Node refuses: there the
 * bytes are copied first. They are parameters of shaders, a few words each.
 */
function acceptSharedMemory(queue: GPUQueue): void {
  const write = queue.writeBuffer.bind(queue);
  const accepting: GPUQueue['writeBuffer'] = (buffer, offset, data, ...range) => {
    const view = data as Uint8Array<ArrayBuffer>;
    const shared = ArrayBuffer.isView(data) && !(view.buffer instanceof ArrayBuffer);
    return write(buffer, offset, shared ? new Uint8Array(view) : data, ...range);
  };
  Object.defineProperty(queue, 'writeBuffer', { value: accepting });
}

async function readFloats(
  gpuDevice: GPUDevice,
  buffer: GPUBuffer,
  begin: number,
  length: number,
): Promise<Float32Array> {
  const staging = gpuDevice.createBuffer({
    size: 4 * length,
    usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
  });
  const encoder = gpuDevice.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 4 * begin, staging, 0, 4 * length);
  gpuDevice.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const values = new Float32Array(staging.getMappedRange().slice(0));
  staging.destroy();
  return values;
}
