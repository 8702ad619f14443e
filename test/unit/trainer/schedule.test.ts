import { describe, expect, it } from 'vitest';
import { learningRateAt, type ScheduleOptions } from '../../../src/trainer/schedule.js';

const base: ScheduleOptions = {
  learningRate: 0.01,
  lrSchedulerType: 'constant',
  minLearningRateRatio: 0,
  warmupSteps: 0,
  warmupRatio: 0,
  warmupFromZero: true,
};
const course = (options: Partial<ScheduleOptions>, total = 10) =>
  Array.from({ length: total }, (_, step) => learningRateAt(step, total, { ...base, ...options }) / 0.01);

/** Values of get_scheduler(...) of transformers 5.18 with warm-up 4 of 10 steps, divided by the learning rate. */
const transformers = {
  constant: [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1],
  linear: [0, 0.25, 0.5, 0.75, 1, 0.8333333333, 0.6666666667, 0.5, 0.3333333333, 0.1666666667],
  cosine: [0, 0.25, 0.5, 0.75, 1, 0.9330127019, 0.75, 0.5, 0.25, 0.0669872981],
};

describe('learningRateAt', () => {
  it.each(Object.entries(transformers))('%s follows transformers', (lrSchedulerType, expected) => {
    const got = course({ lrSchedulerType: lrSchedulerType as ScheduleOptions['lrSchedulerType'], warmupSteps: 4 });
    got.forEach((value, step) => {
      expect(value).toBeCloseTo(expected[step]!, 9);
    });
  });

  it('takes the warm-up as a share of the run, rounded up', () => {
    expect(course({ warmupRatio: 0.35 })).toEqual(course({ warmupSteps: 4 }));
  });

  it('can begin the warm-up with one step of the rise, so that no update is idle', () => {
    expect(course({ warmupSteps: 4, warmupFromZero: false }).slice(0, 5)).toEqual([0.25, 0.5, 0.75, 1, 1]);
  });

  it.each(['linear', 'cosine'] as const)('%s ends at minLearningRateRatio and stays there', (lrSchedulerType) => {
    const options = { ...base, lrSchedulerType, minLearningRateRatio: 0.1 };
    expect(learningRateAt(10, 10, options)).toBeCloseTo(0.001, 12);
    expect(learningRateAt(25, 10, options)).toBeCloseTo(0.001, 12);
    expect(learningRateAt(0, 10, options)).toBe(0.01);
  });

  it('has a value for a run of one step that is all warm-up', () => {
    expect(learningRateAt(0, 1, { ...base, warmupSteps: 1 })).toBe(0);
    expect(learningRateAt(0, 1, { ...base, lrSchedulerType: 'cosine' })).toBe(0.01);
  });
});
