import { expect, it } from 'vitest';
import { type Rollout, rolloutFromJson, rolloutToJson } from '../../../src/trainer/rollout.js';

it('a rollout survives a checkpoint, values that JSON does not have among them', () => {
  const rollout: Rollout = {
    group: 3,
    promptIds: Int32Array.of(1, 2),
    completionIds: Int32Array.of(3, 4, 5),
    reward: Number.NaN,
    advantage: 0,
    oldLogProbs: Float32Array.of(-0.1, -2.7, -1e-30),
    refLogProbs: Float32Array.of(-0.3, Number.NEGATIVE_INFINITY, -1),
    rolloutLogProbs: Float32Array.of(-0.1, Number.NaN, -0.2),
    mask: [1, 0, 1],
    truncated: true,
  };
  expect(rolloutFromJson(JSON.parse(JSON.stringify(rolloutToJson(rollout))))).toEqual(rollout);
  const { reward: _, refLogProbs: __, ...less } = rollout;
  expect(Object.keys(rolloutFromJson(JSON.parse(JSON.stringify(rolloutToJson(less)))))).not.toContain('reward');
});
