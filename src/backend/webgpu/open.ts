/// <reference types="@webgpu/types" preserve="true" />
import { BackendUnavailableError, InvalidArgumentError } from '../../errors.js';
import { Device } from '../../tensor.js';
import { type Abilities, abilitiesOf, wantedFeatures } from './abilities.js';
import { WebGpuBackend } from './backend.js';

export interface WebGpuDeviceOptions {
  /** Where adapters, or the `gpuDevice`, come from. Default: `navigator.gpu` of the browser. */
  gpu?: GPU;
  /** A device that the caller made and keeps: tensors can share its buffers. */
  gpuDevice?: GPUDevice;
  /** Takes an adapter that computes on the processor too. Default false. */
  software?: boolean;
  powerPreference?: GPUPowerPreference;
  /** 'minimum': only what every WebGPU device has, no optional feature either. Default: all that the adapter offers. */
  limits?: 'adapter' | 'minimum';
}

/** Limits that decide how large tensors and how many at a time a shader may see. */
const wantedLimits = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
] as const;

/** Opens a device over WebGPU. Throws a `BackendUnavailableError` that says what was tried. */
export async function openWebGpuDevice(
  options: WebGpuDeviceOptions = {},
  why = 'WebGPU was asked for',
): Promise<Device> {
  const known = ['gpu', 'gpuDevice', 'software', 'powerPreference', 'limits'];
  const unknown = Object.keys(options).find((key) => !known.includes(key));
  if (unknown) throw new InvalidArgumentError('options of the WebGPU device', known.join(', '), unknown);
  const { gpuDevice } = options;
  const language = (options.gpu ?? browserGpu())?.wgslLanguageFeatures;
  if (gpuDevice) {
    const name = 'webgpu (a device of the caller)';
    const abilities = await abilitiesOf(gpuDevice, language);
    const backend = new WebGpuBackend(gpuDevice, name, describe(gpuDevice, null, abilities), {
      shared: true,
      abilities,
    });
    return new Device(backend, 'a WebGPU device was given');
  }
  const adapter = await requestWebGpuAdapter(options);
  return openWebGpuAdapter(adapter, language, options.limits, why);
}

/** Opens a device of an adapter, which gives one. `language`: what the shaders of its `GPU` may use. */
export async function openWebGpuAdapter(
  adapter: GPUAdapter,
  language: GPU['wgslLanguageFeatures'] | undefined,
  limits: WebGpuDeviceOptions['limits'],
  why: string,
): Promise<Device> {
  const device = await requestDevice(adapter, limits ?? 'adapter');
  const abilities = await abilitiesOf(device, language);
  const name = `webgpu (${adapterName(adapter)})`;
  return new Device(new WebGpuBackend(device, name, describe(device, adapter, abilities), { abilities }), why);
}

/** The adapter that `openWebGpuDevice` would use. */
export async function requestWebGpuAdapter({
  gpu = browserGpu(),
  software = false,
  powerPreference = 'high-performance',
}: WebGpuDeviceOptions = {}): Promise<GPUAdapter> {
  if (!gpu) throw unavailable('resolve', 'this environment has no navigator.gpu', browserActions);
  let adapter: GPUAdapter | null;
  try {
    adapter = await gpu.requestAdapter({ powerPreference });
  } catch (error) {
    throw unavailable('driver', (error as Error).message, driverActions);
  }
  if (!adapter) throw unavailable('driver', 'no adapter was found', driverActions);
  if (adapter.info.isFallbackAdapter && !software) {
    throw unavailable(
      'device',
      `the only adapter, ${adapterName(adapter)}, computes on the processor`,
      softwareActions,
    );
  }
  return adapter;
}

function browserGpu(): GPU | undefined {
  return (globalThis as { navigator?: { gpu?: GPU } }).navigator?.gpu;
}

export function adapterName({ info }: GPUAdapter): string {
  return info.description || info.device || info.architecture || info.vendor || 'unnamed adapter';
}

async function requestDevice(adapter: GPUAdapter, limits: 'adapter' | 'minimum'): Promise<GPUDevice> {
  const all = {
    requiredFeatures: wantedFeatures.filter((feature) => adapter.features.has(feature)),
    requiredLimits: Object.fromEntries(wantedLimits.map((name) => [name, adapter.limits[name]])),
  };
  try {
    return await adapter.requestDevice(limits === 'adapter' ? all : {});
  } catch (error) {
    throw unavailable('device', (error as Error).message, driverActions);
  }
}

function describe(
  { limits, features }: GPUDevice,
  adapter: GPUAdapter | null,
  { subgroups, f16 }: Abilities,
): Record<string, string> {
  const known: Record<string, string> = adapter
    ? {
        adapter: adapterName(adapter),
        vendor: adapter.info.vendor,
        computesOn: adapter.info.isFallbackAdapter ? 'the processor' : 'a GPU',
      }
    : {};
  return {
    ...known,
    features: wantedFeatures.filter((feature) => features.has(feature)).join(', ') || 'none',
    reductions: subgroups ? `in subgroups of ${subgroups.least} to ${subgroups.most}` : 'through workgroup memory',
    f16: f16 ? 'converted by the device' : 'converted by integers',
    ...Object.fromEntries(wantedLimits.map((name) => [name, String(limits[name])])),
  };
}

const browserActions = [
  'Use a browser with WebGPU (docs/webgpu.md lists them), over https or on localhost.',
  'In Node: npm install webgpu@0.6.2.',
];
const driverActions = [
  'Install a Vulkan, Metal or Direct3D 12 driver for the GPU.',
  'On Linux, VK_DRIVER_FILES or VK_ICD_FILENAMES may name the driver.',
];
const softwareActions = [
  "Ask for it by name: openDevice('webgpu:software').",
  "Or use openDevice('cpu'), which is faster on a processor.",
];

function unavailable(stage: 'resolve' | 'driver' | 'device', message: string, actions: string[]) {
  return new BackendUnavailableError('webgpu', [{ path: 'webgpu', stage, message }], actions);
}
