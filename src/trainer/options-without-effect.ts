import { type GRPOConfig, grpoConfigSchema } from './config.js';

/** The options of a group, when they have an effect, and what to do otherwise. */
interface Condition {
  options: readonly (keyof GRPOConfig)[];
  holds: (config: GRPOConfig) => boolean;
  needs: string;
}

const clipping: readonly string[] = ['grpo', 'bnpo', 'dapo', 'dr_grpo', 'luspo'];

const conditions: readonly Condition[] = [
  {
    options: ['epsilon'],
    holds: ({ lossType }) => clipping.includes(lossType),
    needs: `lossType ${clipping.join(', ')}`,
  },
  {
    options: ['epsilonHigh'],
    holds: ({ lossType }) => clipping.includes(lossType) || lossType === 'cispo',
    needs: `lossType ${[...clipping, 'cispo'].join(', ')}`,
  },
  {
    options: ['sapoTemperaturePos', 'sapoTemperatureNeg'],
    holds: ({ lossType }) => lossType === 'sapo',
    needs: 'lossType sapo',
  },
  {
    options: ['vespoKPos', 'vespoLambdaPos', 'vespoKNeg', 'vespoLambdaNeg'],
    holds: ({ lossType }) => lossType === 'vespo',
    needs: 'lossType vespo',
  },
  { options: ['klEstimator', 'useBiasCorrectionKl'], holds: ({ beta }) => beta > 0, needs: 'beta above 0' },
  {
    options: ['rolloutCorrectionCap', 'rolloutCorrectionMin'],
    holds: ({ rolloutCorrection }) => rolloutCorrection !== null,
    needs: 'rolloutCorrection',
  },
  {
    options: ['sftTokens', 'sftBatchSize', 'sftMaxLength'],
    holds: ({ sftCoefficient }) => sftCoefficient > 0,
    needs: 'sftCoefficient above 0',
  },
];

const defaults = grpoConfigSchema.parse({});

/** A problem for each option that is not at its default and would be ignored beside the others. */
export function* optionsWithoutEffect(config: GRPOConfig): Generator<string> {
  for (const { options, holds, needs } of conditions) {
    if (holds(config)) continue;
    for (const option of options) {
      if (config[option] !== defaults[option]) yield `${option}: has no effect without ${needs}`;
    }
  }
}
