import { KernelError } from '../../errors.js';
import type { Abilities } from './abilities.js';
import { inErrorScopes } from './error-scopes.js';
import { Doubt } from './faults.js';
import type { Dispatch } from './operations/dispatch.js';
import { type BindingPlan, parameterWords, shaderCode, shaderKey } from './shader.js';
import { bufferUsage, shaderStageCompute } from './usage.js';

interface Compiled {
  id: number;
  pipeline: GPUComputePipeline;
  layout: GPUBindGroupLayout;
}

/** Runs of shaders between two submissions; each has a block of parameters. */
const runsPerBatch = 1024;
const keptBindGroups = 8192;

/** Records runs of shaders into one command encoder, until somebody waits or the batch is full. */
export class CommandQueue {
  readonly #device: GPUDevice;
  readonly #abilities: Abilities;
  readonly #watch: (submitted: Promise<unknown>) => void;
  readonly #compiled = new Map<string, Compiled>();
  readonly #bindGroups = new Map<string, GPUBindGroup>();
  readonly #bufferIds = new WeakMap<GPUBuffer, number>();
  /** The batch in which a buffer was last used. */
  readonly #lastUse = new WeakMap<GPUBuffer, number>();
  readonly #stride: number;
  readonly #words: Uint32Array<ArrayBuffer>;
  readonly #floats: Float32Array;
  readonly #parameters: GPUBuffer;
  #encoder: GPUCommandEncoder | null = null;
  #pass: GPUComputePassEncoder | null = null;
  #runs = 0;
  #batch = 1;
  #batchDoubt = new Doubt();
  #operations = new Set<string>();
  #lastBatch = 'nothing';
  #lastBuffer = 0;

  constructor(device: GPUDevice, abilities: Abilities, watch: (submitted: Promise<unknown>) => void) {
    this.#device = device;
    this.#abilities = abilities;
    this.#watch = watch;
    const bytes = Math.max(4 * parameterWords, device.limits.minUniformBufferOffsetAlignment);
    this.#stride = bytes / 4;
    this.#words = new Uint32Array(runsPerBatch * this.#stride);
    this.#floats = new Float32Array(this.#words.buffer);
    const { UNIFORM, COPY_DST } = bufferUsage;
    this.#parameters = device.createBuffer({ size: this.#words.byteLength, usage: UNIFORM | COPY_DST });
  }

  /** Whether the batch that is being recorded will be accepted. */
  get batchDoubt(): Doubt {
    return this.#batchDoubt;
  }

  /** What was submitted last, for messages. */
  get lastBatch(): string {
    return this.#lastBatch;
  }

  dispatch(
    operation: string,
    dispatch: Dispatch,
    plan: BindingPlan,
    buffers: readonly GPUBuffer[],
    faults: GPUBuffer | null,
  ): void {
    if (this.#runs === runsPerBatch) this.flush();
    const compiled = this.#compile(operation, dispatch, plan, faults !== null);
    const bindGroup = this.#bindGroup(compiled, plan, buffers, faults);
    if (!this.#pass) {
      this.#encoder = this.#device.createCommandEncoder();
      this.#pass = this.#encoder.beginComputePass();
    }
    const offset = this.#runs++ * this.#stride;
    this.#writeParameters(offset, dispatch, plan);
    this.#operations.add(operation);
    for (const buffer of buffers) this.#lastUse.set(buffer, this.#batch);
    this.#pass.setPipeline(compiled.pipeline);
    this.#pass.setBindGroup(0, bindGroup, [offset * 4]);
    const most = this.#device.limits.maxComputeWorkgroupsPerDimension;
    const across = Math.min(dispatch.workgroups, most);
    this.#pass.dispatchWorkgroups(across, Math.ceil(dispatch.workgroups / across));
  }

  /** Writes after all that was recorded. Bytes beyond a multiple of 4 are filled with zeros. */
  write(buffer: GPUBuffer, offset: number, data: ArrayBufferView): void {
    this.submitUsesOf(buffer);
    const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
    const whole = Math.floor(bytes.length / 4) * 4;
    if (whole > 0) this.#device.queue.writeBuffer(buffer, offset, bytes, 0, whole);
    if (whole === bytes.length) return;
    const rest = new Uint8Array(4);
    rest.set(bytes.subarray(whole));
    this.#device.queue.writeBuffer(buffer, offset + whole, rest);
  }

  /** Submits what was recorded if it uses the buffer: before the buffer changes or goes away. */
  submitUsesOf(buffer: GPUBuffer): void {
    if (this.#lastUse.get(buffer) === this.#batch) this.flush();
  }

  flush(): void {
    if (!this.#pass) return;
    this.#pass.end();
    const doubt = this.#batchDoubt;
    this.#lastBatch = `a batch of ${[...this.#operations].join(', ')}`;
    const submitted = this.scoped(this.#lastBatch, () => {
      this.#device.queue.writeBuffer(this.#parameters, 0, this.#words, 0, this.#runs * this.#stride);
      this.#device.queue.submit([this.#encoder!.finish()]);
      return doubt;
    });
    this.#watch(
      this.#device.queue
        .onSubmittedWorkDone()
        .catch(() => {})
        .then(() => {
          submitted.error ??= null;
        }),
    );
    this.#encoder = this.#pass = null;
    this.#runs = 0;
    this.#batch++;
    this.#batchDoubt = new Doubt();
    this.#operations.clear();
  }

  /** Runs calls of the API; what it says against them becomes the error of the batch. */
  scoped<T>(what: string, calls: () => T): T {
    const doubt = this.#batchDoubt;
    const { result, error } = inErrorScopes(this.#device, calls);
    this.#watch(
      error.then((found) => {
        if (found) doubt.error ??= new KernelError(`WebGPU refused ${what}: ${found.message}`);
      }),
    );
    return result;
  }

  close(): void {
    this.#parameters.destroy();
  }

  #writeParameters(offset: number, { parameters = {} }: Dispatch, { places, absent }: BindingPlan): void {
    let at = offset;
    for (const { offset: first, tensor } of places) {
      this.#words[at++] = first;
      this.#words[at++] = tensor.rowStride;
    }
    for (const _ of absent) this.#words[at++] = 0;
    for (const value of Object.values(parameters.u32 ?? {})) this.#words[at++] = value;
    for (const value of Object.values(parameters.f32 ?? {})) this.#floats[at++] = value;
    if (at > offset + parameterWords) throw new RangeError(`a shader of more than ${parameterWords} parameters`);
  }

  #compile(operation: string, dispatch: Dispatch, plan: BindingPlan, faults: boolean): Compiled {
    const key = shaderKey(dispatch, plan);
    const known = this.#compiled.get(key);
    if (known) return known;
    const buffer = (binding: number, type: GPUBufferBindingType): GPUBindGroupLayoutEntry => ({
      binding,
      visibility: shaderStageCompute,
      buffer: { type, hasDynamicOffset: type === 'uniform' },
    });
    const types: GPUBufferBindingType[] = [
      'uniform',
      ...plan.bound.flatMap(({ written, pages }) => pages.map(() => storageType(written))),
      ...(faults ? [storageType(true)] : []),
    ];
    const entries = types.map((type, i) => buffer(i, type));
    const label = `${operation} (${dispatch.sources.join(', ')})`;
    const compiled = this.scoped(label, () => {
      const layout = this.#device.createBindGroupLayout({ entries, label });
      const module = this.#device.createShaderModule({ code: shaderCode(dispatch, plan, this.#abilities), label });
      const pipeline = this.#device.createComputePipeline({
        label,
        layout: this.#device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: { module, entryPoint: dispatch.entry ?? 'main' },
      });
      return { id: this.#compiled.size, pipeline, layout };
    });
    this.#compiled.set(key, compiled);
    return compiled;
  }

  #bindGroup(
    { id, layout }: Compiled,
    { bound }: BindingPlan,
    buffers: readonly GPUBuffer[],
    faults: GPUBuffer | null,
  ): GPUBindGroup {
    let key = `${id}`;
    buffers.forEach((buffer, i) => {
      key += ` ${this.#idOf(buffer)}:${bound[i]!.begin}:${bound[i]!.end}`;
    });
    if (faults) key += ` ${this.#idOf(faults)}`;
    const known = this.#bindGroups.get(key);
    if (known) return known;
    const resources: GPUBufferBinding[] = [
      { buffer: this.#parameters, size: 4 * parameterWords },
      ...buffers.flatMap((buffer, i) =>
        bound[i]!.pages.map(({ begin, end }) => ({ buffer, offset: begin, size: end - begin })),
      ),
      ...(faults ? [{ buffer: faults }] : []),
    ];
    const entries = resources.map((resource, binding) => ({ binding, resource }));
    const bindGroup = this.scoped('a bind group', () => this.#device.createBindGroup({ layout, entries }));
    if (this.#bindGroups.size >= keptBindGroups) this.#bindGroups.clear();
    this.#bindGroups.set(key, bindGroup);
    return bindGroup;
  }

  #idOf(buffer: GPUBuffer): number {
    let id = this.#bufferIds.get(buffer);
    if (id === undefined) {
      id = ++this.#lastBuffer;
      this.#bufferIds.set(buffer, id);
    }
    return id;
  }
}

function storageType(written: boolean): GPUBufferBindingType {
  return written ? 'storage' : 'read-only-storage';
}
