import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { grpoConfigSchema, sftConfigSchema } from '../../../src/trainer/config.js';
import {
  ConfigError,
  configOptions,
  parseConfig,
  parseGRPOConfig,
  parseSFTConfig,
} from '../../../src/trainer/parse-config.js';

function problemsOf(action: () => unknown): readonly string[] {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    return (error as ConfigError).problems;
  }
  throw new Error('no error was thrown');
}

describe('configuration', () => {
  it("has TRL's defaults", () => {
    expect(parseGRPOConfig({})).toMatchObject({
      learningRate: 1e-6,
      numGenerations: 8,
      maxCompletionLength: 512,
      perDeviceTrainBatchSize: 8,
      gradientAccumulationSteps: 1,
      temperature: 1,
      topP: 1,
      topK: 0,
      beta: 0,
      numIterations: 1,
      epsilon: 0.2,
      lossType: 'dapo',
      scaleRewards: 'group',
      importanceSamplingLevel: 'token',
      useBiasCorrectionKl: true,
      adamBeta1: 0.9,
      adamBeta2: 0.999,
      adamEpsilon: 1e-8,
      weightDecay: 0,
      maxGradNorm: 1,
      lrSchedulerType: 'linear',
      numTrainEpochs: 3,
      seed: 42,
      vespoKPos: 2,
      vespoLambdaPos: 3,
      sapoTemperatureNeg: 1.05,
    });
    expect(parseSFTConfig({})).toMatchObject({ learningRate: 2e-5, maxLength: 1024 });
  });

  it('suggests the option that was meant', () => {
    const problems = problemsOf(() => parseGRPOConfig({ numGeneration: 4, learning_rate: 1, zzzzzz: 1 }, 'run.yaml'));
    expect(problems).toEqual([
      'numGeneration: unknown option; did you mean numGenerations?',
      'learning_rate: unknown option; did you mean learningRate?',
      'zzzzzz: unknown option',
    ]);
  });

  it('names source, path, expectation and value', () => {
    expect(() => parseGRPOConfig({ beta: '0.1' }, 'run.yaml')).toThrow(
      'run.yaml: beta: expected number, received string, got "0.1"',
    );
    expect(problemsOf(() => parseGRPOConfig({ rewardWeights: [1, 'x'] }))[0]).toMatch(/^rewardWeights\[1\]: expected/);
    expect(problemsOf(() => parseGRPOConfig({ lossType: 'ppo' }))[0]).toMatch(/^lossType: .*"dr_grpo".*got "ppo"$/);
    expect(problemsOf(() => parseGRPOConfig({ numGenerations: 2.5, epsilon: -1 }))).toHaveLength(2);
    expect(problemsOf(() => parseGRPOConfig(3))[0]).toMatch(/^the whole: expected/);
  });

  it.each([
    [{ numGenerations: 3 }, /^numGenerations: 3 must divide the 8/],
    [{ numGenerations: 1, perDeviceTrainBatchSize: 4 }, /at least 2 with baseline mean/],
    [{ lossType: 'cispo' }, /^epsilonHigh: lossType cispo needs it/],
    [{ lossType: 'sapo', delta: 4 }, /^delta: lossType sapo/],
    [{ delta: 1.1 }, /^delta: must be greater than 1 \+ epsilonHigh/],
    [{ epsilon: 1.5 }, /^epsilon: must be at most 1/],
    [{ rolloutCorrectionMin: 4 }, /^rolloutCorrectionMin/],
    [{ rolloutCorrectionGeometric: true, rolloutCorrection: 'token-mask' }, /^rolloutCorrectionGeometric/],
    [{ lossType: 'vespo', importanceSamplingLevel: 'sequence' }, /^importanceSamplingLevel: must be token/],
    [{ lossType: 'vespo', rolloutCorrection: 'sequence-mask' }, /^rolloutCorrection: must be a token mode/],
    [{ lossType: 'sapo', epsilon: 0.1 }, /^epsilon: has no effect without lossType grpo/],
    [{ lossType: 'vespo', epsilonHigh: 0.3 }, /^epsilonHigh: has no effect without lossType .*cispo/],
    [{ sapoTemperatureNeg: 2 }, /^sapoTemperatureNeg: has no effect without lossType sapo/],
    [{ lossType: 'sapo', vespoKPos: 1 }, /^vespoKPos: has no effect without lossType vespo/],
    [{ klEstimator: 'k1' }, /^klEstimator: has no effect without beta above 0/],
    [{ useBiasCorrectionKl: false }, /^useBiasCorrectionKl: has no effect without beta above 0/],
    [{ rolloutCorrectionCap: 2 }, /^rolloutCorrectionCap: has no effect without rolloutCorrection/],
    [{ sftBatchSize: 2 }, /^sftBatchSize: has no effect without sftCoefficient above 0/],
    [{ warmupSteps: 2, warmupRatio: 0.1 }, /^warmupRatio/],
    [{ saveSteps: 10 }, /^saveSteps: needs outputDir/],
    [{ saveTotalLimit: 1 }, /^saveTotalLimit: needs saveSteps/],
  ] as const)('rejects %j', (raw, expected) => {
    expect(problemsOf(() => parseGRPOConfig(raw))[0]).toMatch(expected);
  });

  it('accepts group sizes that fit the generation', () => {
    const raw = { numGenerations: 6, perDeviceTrainBatchSize: 4, stepsPerGeneration: 3 };
    expect(parseGRPOConfig(raw).numGenerations).toBe(6);
  });

  it('describes each option for flags and help', () => {
    for (const schema of [grpoConfigSchema, sftConfigSchema]) {
      const options = configOptions(schema);
      expect(options.map((o) => o.name)).toEqual(Object.keys(schema.shape));
      expect(options.filter((o) => o.description.length < 10)).toEqual([]);
      expect(options.filter((o) => o.default === undefined)).toEqual([]);
    }
    const byName = Object.fromEntries(configOptions(grpoConfigSchema).map((o) => [o.name, o]));
    expect(byName.scaleRewards).toEqual({
      name: 'scaleRewards',
      description: expect.stringContaining('standard deviation'),
      type: 'string',
      choices: ['group', 'batch', 'none'],
      nullable: false,
      default: 'group',
    });
    expect(byName.numGenerations).toMatchObject({ type: 'integer', default: 8, nullable: false });
    expect(byName.delta).toMatchObject({ type: 'number', default: null, nullable: true });
    expect(byName.stop).toMatchObject({ type: 'list', items: 'string' });
    expect(byName.rewardWeights).toMatchObject({ type: 'list', items: 'number', nullable: true });
    expect(byName.gradientCheckpointing).toMatchObject({ type: 'boolean' });
    expect(byName.outputDir).toMatchObject({ type: 'string', nullable: true });
  });

  it('can be extended by a program with options of its own', () => {
    const schema = grpoConfigSchema.extend({ model: z.string() });
    expect(parseConfig(schema, { model: 'm' }).numGenerations).toBe(8);
    expect(problemsOf(() => parseConfig(schema, { modl: 'm' }))).toContain('modl: unknown option; did you mean model?');
  });
});
