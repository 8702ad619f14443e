import { z } from 'zod';

/**
 * The options of the trainers, once: names and meanings are TRL's, in camelCase. Types, YAML files, flags and `--help` all
 * come from these schemas. Options that depend on each other are checked in `parse-config.ts`.
 */

const positiveInt = z.int().positive();
const count = z.int().nonnegative();
const share = z.number().min(0).max(1);
const finite = z.number();

const optimisationOptions = {
  learningRate: finite.nonnegative().default(1e-6).describe('Peak learning rate of AdamW'),
  lrSchedulerType: z
    .enum(['constant', 'linear', 'cosine'])
    .default('linear')
    .describe('Course of the learning rate after the warm-up: constant, or down to minLearningRateRatio'),
  minLearningRateRatio: share.default(0).describe('Share of the learning rate that linear and cosine end at'),
  warmupSteps: count.default(0).describe('Updates over which the learning rate rises linearly from 0'),
  warmupRatio: share.default(0).describe('The same as a share of all updates; not together with warmupSteps'),
  warmupFromZero: z
    .boolean()
    .default(true)
    .describe('The first update of the warm-up has learning rate 0, as in transformers; false: one step of the rise'),
  adamBeta1: share.lt(1).default(0.9).describe('Decay of the first moment of AdamW'),
  adamBeta2: share.lt(1).default(0.999).describe('Decay of the second moment of AdamW'),
  adamEpsilon: finite.positive().default(1e-8).describe('Added to the denominator of AdamW'),
  weightDecay: finite.nonnegative().default(0).describe('Decoupled weight decay; norms and biases are left out'),
  maxGradNorm: finite.nonnegative().default(1).describe('Gradients are scaled down to this global norm; 0: never'),
  maxSkippedUpdates: positiveInt
    .nullable()
    .default(10)
    .describe('Updates in a row that may be skipped because their gradients are not finite; one more is an error'),
  zeroStage: z
    .int()
    .min(0)
    .max(2)
    .default(0)
    .describe(
      'With several ranks: 0 all state on each, 1 a part of the optimiser state on each, 2 of the gradients too',
    ),
  gradientCheckpointing: z
    .boolean()
    .default(false)
    .describe('Keep only the input of each layer and compute the rest again in the backward pass: less memory, slower'),
  logitsWorkspaceBytes: positiveInt
    .default(256 * 1024 * 1024)
    .describe('Most bytes that the logits of a chunk of tokens may take'),
};

const runOptions = {
  numTrainEpochs: finite.positive().default(3).describe('Passes over the data set; not used when maxSteps is set'),
  maxSteps: positiveInt.nullable().default(null).describe('Optimiser updates of the run'),
  seed: z.int().min(0).max(0xffffffff).default(42).describe('Seed of the data order and of sampling'),
  shuffleDataset: z.boolean().default(true).describe('Shuffle the data set anew for each epoch'),
  loggingSteps: positiveInt.default(1).describe('Updates between two entries in the logs, which average over them'),
  evalSteps: positiveInt
    .nullable()
    .default(null)
    .describe('Updates between two evaluations, and one at the end; needs held-out rows'),
  evalOnStart: z.boolean().default(false).describe('Evaluate before the first update too'),
  saveSteps: positiveInt
    .nullable()
    .default(null)
    .describe('Updates between two checkpoints, and one at the end; needs outputDir'),
  saveTotalLimit: positiveInt.nullable().default(null).describe('Checkpoints that are kept; older ones are deleted'),
  outputDir: z.string().min(1).nullable().default(null).describe('Folder of the run: checkpoints and logs'),
};

const batchOptions = {
  perDeviceTrainBatchSize: positiveInt.default(8).describe('Sequences of a micro-batch, on each rank'),
  gradientAccumulationSteps: positiveInt.default(1).describe('Micro-batches of an optimiser update'),
};

const samplingOptions = {
  numGenerations: positiveInt.default(8).describe('Completions sampled for a prompt: the size of a group'),
  maxCompletionLength: positiveInt.default(512).describe('Most tokens of a completion'),
  maxPromptLength: positiveInt
    .nullable()
    .default(null)
    .describe('Longer prompts lose tokens at their start; null: prompts are used whole'),
  temperature: finite.positive().default(1).describe('Temperature of sampling, and of the log-probs in the loss'),
  topK: count.default(0).describe('Sample from the k most likely tokens; 0: from all'),
  topP: share.gt(0).default(1).describe('Sample from the most likely tokens that together reach this probability'),
  minP: share.default(0).describe("Sample from tokens at least this share of the most likely one's probability"),
  stop: z.array(z.string().min(1)).default([]).describe('Strings that end a completion'),
  stepsPerGeneration: positiveInt
    .nullable()
    .default(null)
    .describe('Micro-batches that one generation is cut into; null: gradientAccumulationSteps'),
  numIterations: positiveInt.default(1).describe('Times that each generated batch is used (mu in the GRPO paper)'),
  maskTruncatedCompletions: z
    .boolean()
    .default(false)
    .describe('Leave completions that reached maxCompletionLength out of the loss'),
};

const advantageOptions = {
  scaleRewards: z
    .enum(['group', 'batch', 'none'])
    .default('group')
    .describe('Divide advantages by the standard deviation of the group, of the batch, or not at all (Dr. GRPO)'),
  baseline: z
    .enum(['mean', 'leave-one-out', 'none'])
    .default('mean')
    .describe('Subtract the mean reward of the group, of the other completions of the group (RLOO), or nothing'),
  rewardWeights: z
    .array(finite)
    .nullable()
    .default(null)
    .describe('A weight a reward, in their order; null: the weight that each reward brings'),
};

const lossOptions = {
  lossType: z
    .enum(['grpo', 'bnpo', 'dapo', 'dr_grpo', 'luspo', 'cispo', 'sapo', 'vespo'])
    .default('dapo')
    .describe('Form and normalisation of the policy loss'),
  importanceSamplingLevel: z
    .enum(['token', 'sequence'])
    .default('token')
    .describe('Probability ratio of each token, or of the whole sequence (GSPO)'),
  beta: finite.nonnegative().default(0).describe('Weight of the KL to the reference policy; 0: no reference is kept'),
  klEstimator: z.enum(['k1', 'k2', 'k3']).default('k3').describe('Estimator of the KL'),
  useBiasCorrectionKl: z.boolean().default(true).describe('Multiply the KL by the probability ratio'),
  epsilon: finite.nonnegative().default(0.2).describe('Clip range of the probability ratio below 1'),
  epsilonHigh: finite
    .nonnegative()
    .nullable()
    .default(null)
    .describe('Clip range above 1; null: epsilon. For cispo the cap of the ratio itself'),
  delta: finite.positive().nullable().default(null).describe('Upper bound of the ratio for negative advantages'),
  topEntropyQuantile: share
    .gt(0)
    .default(1)
    .describe('Only this share of the tokens of an update, those with the highest entropy, get a policy gradient'),
  entropyCoefficient: finite.default(0).describe('Weight of the entropy bonus'),
  offPolicyMaskThreshold: finite
    .positive()
    .nullable()
    .default(null)
    .describe('Drop sequences with a negative advantage whose mean log-prob fell by more than this'),
  rolloutCorrection: z
    .enum(['token-truncate', 'token-mask', 'sequence-truncate', 'sequence-mask'])
    .nullable()
    .default(null)
    .describe("Importance weights for an engine whose log-probs differ from the trainer's"),
  rolloutCorrectionCap: finite.positive().default(3).describe('Upper bound of those weights'),
  rolloutCorrectionMin: finite.nonnegative().default(0).describe('Lower bound of those weights'),
  rolloutCorrectionGeometric: z.boolean().default(false).describe('Geometric mean instead of product (sequence modes)'),
  sapoTemperaturePos: finite.positive().default(1).describe('Temperature of sapo for positive advantages'),
  sapoTemperatureNeg: finite.positive().default(1.05).describe('Temperature of sapo for the others'),
  vespoKPos: finite.nonnegative().default(2).describe('Exponent k of vespo for advantages of 0 and more'),
  vespoLambdaPos: finite.nonnegative().default(3).describe('Decay lambda of vespo for advantages of 0 and more'),
  vespoKNeg: finite.nonnegative().default(3).describe('Exponent k of vespo for negative advantages'),
  vespoLambdaNeg: finite.nonnegative().default(2).describe('Decay lambda of vespo for negative advantages'),
};

const cloningOptions = {
  sftCoefficient: finite
    .nonnegative()
    .default(0)
    .describe('Weight of the cross-entropy of expert replies in the loss; above 0 it needs demonstrations'),
  sftTokens: z
    .enum(['completion', 'all'])
    .default('completion')
    .describe('Tokens of a demonstration that carry loss: those of the reply, or those of the prompt too'),
  sftBatchSize: positiveInt
    .nullable()
    .default(null)
    .describe('Expert replies mixed into an update; null: as many as it has completions'),
  sftMaxLength: positiveInt
    .nullable()
    .default(null)
    .describe('Longer demonstrations lose tokens at their end; null: they are used whole'),
};

const contrast = z.strictObject({
  share: share.gt(0).lt(1).default(0.25).describe('Share of the completions of a prompt that answer without thinking'),
  score: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .describe('Reward that both kinds are compared by; null: the weighted sum of all'),
  met: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .describe(
      'Reward that counts what a completion met, compared with the field reference_met of its row; null: no comparison',
    ),
  statistics: z
    .enum(['thinking', 'all'])
    .default('thinking')
    .describe('Completions that make the mean and the deviation of a group'),
  released: z.boolean().default(false).describe("Masks as in RAIF's released code, for comparisons"),
});

const contrastOptions = {
  contrast: contrast
    .nullable()
    .default(null)
    .describe('Contrast of thinking with not thinking; an object with the fields below, in a YAML file or in code'),
};

const evaluationOptions = {
  numGenerationsEval: positiveInt.default(1).describe('Completions a prompt in evaluation'),
  evalTemperature: finite.nonnegative().default(0).describe('Temperature in evaluation; 0 takes the likeliest token'),
  perDeviceEvalBatchSize: positiveInt.default(64).describe('Prompts that are generated together in evaluation'),
};

/** Options of `GRPOTrainer`. */
export const grpoConfigSchema = z.strictObject({
  ...samplingOptions,
  ...advantageOptions,
  ...lossOptions,
  ...contrastOptions,
  ...cloningOptions,
  ...batchOptions,
  ...optimisationOptions,
  ...runOptions,
  ...evaluationOptions,
});

/** Options of `SFTTrainer`. */
export const sftConfigSchema = z.strictObject({
  maxLength: positiveInt
    .nullable()
    .default(1024)
    .describe('Longer examples lose tokens at their end; null: they are used whole'),
  ...batchOptions,
  ...optimisationOptions,
  learningRate: optimisationOptions.learningRate.unwrap().default(2e-5).describe('Peak learning rate of AdamW'),
  ...runOptions,
  perDeviceEvalBatchSize: evaluationOptions.perDeviceEvalBatchSize
    .unwrap()
    .default(8)
    .describe('Sequences of an evaluation batch'),
});

/** The fields of `contrast`. */
export const contrastSchema = contrast;

/** Every option with its value. */
export type GRPOConfig = z.output<typeof grpoConfigSchema>;
export type ContrastConfig = z.output<typeof contrastSchema>;
export type SFTConfig = z.output<typeof sftConfigSchema>;
/** What a person gives: any of the options. */
export type GRPOOptions = z.input<typeof grpoConfigSchema>;
export type SFTOptions = z.input<typeof sftConfigSchema>;
