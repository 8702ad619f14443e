/** grpo-native for Node. */
import './platform/node.js';

export {
  availableDevices,
  type DeviceInfo,
  type DeviceKind,
  type OpenDeviceOptions,
  openDevice,
} from './backend/open-device.js';
export * from './browser.js';
export { openProcessGroup } from './distributed/open-process-group.js';
export type {
  CollectiveStatistics,
  PendingCollective,
  ProcessGroup,
  ProcessGroupOptions,
  ReduceOp,
  Store,
} from './distributed/process-group.js';
export { singleProcessGroup } from './distributed/single-process-group.js';
export { nodeTransport } from './eval/node-transport.js';
export { WeightBroadcast, type WeightBroadcastOptions } from './rollout/weight-broadcast.js';
export { ServedModel, type ServedModelOptions } from './serve/served-model.js';
export { ApiServer, type ServerOptions } from './serve/server.js';
export { type ConsoleOptions, ConsoleTracker, type ProgressStream } from './tracking/console.js';
export { JsonlTracker } from './tracking/jsonl.js';
export { ReportTracker, writeReport } from './tracking/report/report.js';
export { TensorBoardTracker } from './tracking/tensorboard.js';
