/** grpo-native for Node. */
export type { DeviceMemory, DType } from './backend/backend.js';
export {
  availableDevices,
  type DeviceInfo,
  type DeviceKind,
  type OpenDeviceOptions,
  openDevice,
} from './backend/open-device.js';
export type { TensorData } from './dtype.js';
export * from './errors.js';
export { Device, Scope, Tensor } from './tensor.js';
