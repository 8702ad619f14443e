// Whether memory grows over a long run of a tiny model: node --expose-gc scripts/long-run.mjs [--steps 2000]
// Prints the slope of the resident memory and the device's memory over the second half of the steps. Fails when live tensors
// or the device's live bytes grow, or, from 1,000 steps on, the resident memory by more than 2 KiB a step.
import { parseArgs } from 'node:util';
import { openDevice } from '../dist/backend/open-device.js';
import { CausalLM } from '../dist/models/causal-lm.js';
import '../dist/platform/node.js';
import { Tokenizer } from '../dist/text/tokenizer.js';
import { GRPOTrainer } from '../dist/trainer/grpo-trainer.js';

const { values } = parseArgs({ options: { steps: { type: 'string', default: '2000' } } });
const steps = Number(values.steps);
const device = await openDevice('cpu', { threads: 1 });
const shape = {
  ...{ hiddenSize: 16, intermediateSize: 32, numHiddenLayers: 1, numAttentionHeads: 2, numKeyValueHeads: 1 },
  ...{ maxPositionEmbeddings: 64, tieWordEmbeddings: true, initializerRange: 0.2 },
};
const policy = CausalLM.create(shape, Tokenizer.fromCharacters('0123456789+=abcdefgh.'), { device, seed: 1 });
const trainer = await GRPOTrainer.create({
  policy,
  dataset: Array.from({ length: 10 }, (_, i) => ({ prompt: `${i}+${i}=` })),
  rewards: [
    { name: 'digits', score: (batch) => batch.map(({ completion }) => completion.replace(/[^0-9]/g, '').length) },
  ],
  numGenerations: 4,
  perDeviceTrainBatchSize: 4,
  maxCompletionLength: 8,
  beta: 0.01,
  learningRate: 1e-3,
  maxSteps: steps,
});

/** Slope of y over x by least squares. */
function slope(points) {
  const mean = (list) => list.reduce((sum, value) => sum + value, 0) / list.length;
  const [mx, my] = [mean(points.map(([x]) => x)), mean(points.map(([, y]) => y))];
  const covariance = points.reduce((sum, [x, y]) => sum + (x - mx) * (y - my), 0);
  return covariance / points.reduce((sum, [x]) => sum + (x - mx) ** 2, 0);
}

const every = Math.max(1, Math.floor(steps / 100));
const samples = [];
for await (const { step } of trainer) {
  if (step % every !== 0) continue;
  await device.synchronize();
  globalThis.gc?.();
  const { liveTensors, liveBytes, reservedBytes } = device.memory();
  samples.push({ step, rss: process.memoryUsage().rss, liveTensors, liveBytes, reservedBytes });
}
const half = samples.slice(Math.floor(samples.length / 2));
const [first, last] = [half[0], half.at(-1)];
const growth = slope(half.map(({ step, rss }) => [step, rss]));
const change = (name) => last[name] - first[name];
console.log(
  `${steps} steps; steps ${first.step} to ${last.step}: resident memory ${growth.toFixed(0)} bytes a step ` +
    `(${(last.rss / 2 ** 20).toFixed(1)} MiB at the end), live tensors ${change('liveTensors')}, ` +
    `device memory ${change('liveBytes')} bytes live, ${change('reservedBytes')} reserved`,
);
await trainer.close();
policy.dispose();
const left = device.memory().liveTensors;
device.close();
if (change('liveTensors') > 0 || change('liveBytes') > 0 || (steps >= 1000 && growth > 2048) || left > 0) {
  console.error(`Memory grows: ${left} tensors are left`);
  process.exit(1);
}
