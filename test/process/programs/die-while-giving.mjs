// A trainer that dies after the first piece of its weights: node die-while-giving.mjs <url> <model folder>.
import process from 'node:process';
import { CausalLM, OpenAIEngine, openDevice, WeightBroadcast } from '../../../dist/index.js';

const [url, folder] = process.argv.slice(2);
const device = await openDevice('cpu', { threads: 1 });
const policy = await CausalLM.load(folder, { device });
const { parameters } = policy;
device.run('fill', { out: parameters.flat, value: 1 });
const flat = new Proxy(parameters.flat, {
  get(target, name) {
    if (name !== 'view') return Reflect.get(target, name, target);
    return (shape, offset) => {
      if (offset > 0) {
        // The first piece is on its way, on a thread of its own.
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
        process.kill(process.pid, 'SIGKILL');
      }
      return target.view(shape, offset);
    };
  },
});
const layout = () => parameters.layout();
const weights = new WeightBroadcast({ parameters: { device, dtype: parameters.dtype, layout, flat } });
const engine = new OpenAIEngine({ kind: 'grpo', url, model: 'model', policy, weights, retries: 0 });
await engine.generate([policy.tokenizer.encode('a')], { maxNewTokens: 4 });
