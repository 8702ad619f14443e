import { afterAll, expect, test } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import type { TokenSequence } from '../../../src/models/token-scores.js';
import { tinyPolicy } from '../../tiny-model.js';

const device = await openDevice('cpu', { matmul: 'builtin', threads: 2 });
const policy = tinyPolicy({ device, seed: 3 });
policy.parameters.enableGradients();

afterAll(() => {
  policy.dispose();
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

const prompts = [[5, 9, 20, 31, 7], [12], [40, 41, 42, 8]];
const sequences: TokenSequence[] = [
  { promptIds: prompts[0]!, completionIds: [3, 4, 5, 6] },
  { promptIds: prompts[1]!, completionIds: [9, 9] },
  { promptIds: prompts[0]!, completionIds: [30] },
  { promptIds: prompts[2]!, completionIds: [] },
  { promptIds: prompts[2]!, completionIds: [17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33] },
  { promptIds: prompts[0]!, completionIds: [3, 4, 11, 2, 1, 0] },
  { promptIds: prompts[1]!, completionIds: [10] },
];
const tokens = sequences.reduce((sum, { completionIds }) => sum + completionIds.length, 0);
const upstream = Float32Array.from({ length: tokens }, (_, i) => Math.sin(i + 1));

/** Log-probs, and the gradients of sum(upstream * logProbs), of batches that are scored one after another. */
async function run(batches: TokenSequence[][], gradientCheckpointing = false) {
  policy.parameters.zeroGradients();
  const logProbs: number[] = [];
  let done = 0;
  for (const batch of batches) {
    const scores = policy.score(batch, { gradients: true, gradientCheckpointing });
    const size = scores.logProbs.size;
    const grad = device.tensor(upstream.slice(done, done + size), [size]);
    logProbs.push(...(await scores.logProbs.read()));
    scores.backward(grad);
    grad.dispose();
    scores.dispose();
    done += size;
  }
  return { logProbs, gradients: (await policy.parameters.gradients!.read()) as Float32Array };
}

test('a completion has the same log-probs, to the bit, whether its prompt is shared or its own', async () => {
  const together = await run([sequences]);
  const apart = await run(sequences.map((sequence) => [sequence]));
  expect(together.logProbs).toEqual(apart.logProbs);
});

test.each([false, true])('gradients through a shared prompt add up (checkpointing %s)', async (checkpointing) => {
  const together = await run([sequences], checkpointing);
  const apart = await run(sequences.map((sequence) => [sequence]));
  let difference = 0;
  let size = 0;
  together.gradients.forEach((value, i) => {
    difference += (value - apart.gradients[i]!) ** 2;
    size += apart.gradients[i]! ** 2;
  });
  expect(size).toBeGreaterThan(1);
  expect(Math.sqrt(difference / size)).toBeLessThan(1e-6);
});

test('the tolerance on gradients notices a completion that is missing', async () => {
  const whole = await run([sequences]);
  const part = await run([sequences.slice(0, -1)]);
  const difference = whole.gradients.reduce((sum, value, i) => sum + (value - part.gradients[i]!) ** 2, 0);
  const size = whole.gradients.reduce((sum, value) => sum + value ** 2, 0);
  expect(Math.sqrt(difference / size)).toBeGreaterThan(1e-3);
});
