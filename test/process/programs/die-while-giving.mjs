// A trainer that gets a signal after the first piece of its weights: node die-while-giving.mjs <url> <model> <signal>.
import process from 'node:process';
import { CausalLM, OpenAIEngine, openDevice, WeightBroadcast } from '../../../dist/index.js';

const [url, folder, signal] = process.argv.slice(2);
const device = await openDevice('cpu', { threads: 1 });
const policy = await CausalLM.load(folder, { device });
const { parameters } = policy;
device.run('fill', { out: parameters.flat, value: 1 });
// One piece, while the server waits for those of the whole layout.
const flat = parameters.flat.view([2 ** 22]);
const layout = () => parameters.layout();
const weights = new WeightBroadcast(
  { parameters: { device, dtype: parameters.dtype, layout, flat } },
  { timeoutSeconds: 4 },
);
const engine = new OpenAIEngine({ kind: 'grpo', url, model: 'model', policy, weights, retries: 0 });
setTimeout(() => process.stdout.write('given\n', () => process.kill(process.pid, signal)), 1500);
await engine.generate([policy.tokenizer.encode('a')], { maxNewTokens: 4 });
