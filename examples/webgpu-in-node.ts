/** What a browser with WebGPU has as globals, in Node over Dawn: imported before a framework that looks for them. */
import { create, globals } from 'webgpu';

export const gpu = create([]);
Object.assign(globalThis, globals);
const scope = globalThis as { navigator?: object };
if (!scope.navigator) {
  Object.defineProperty(scope, 'navigator', { value: { userAgent: 'Node.js' }, configurable: true });
}
Object.defineProperty(scope.navigator, 'gpu', { value: gpu, configurable: true });
