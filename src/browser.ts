/** What runs in a browser as well as in Node: everything that needs no file, process or addon of its own. */
export type { Backend, DeviceMemory, DType, ReplayStatistics } from './backend/backend.js';
export { openWebGpuDevice, type WebGpuDeviceOptions } from './backend/webgpu/open.js';
export { loadDemonstrations, loadPrompts } from './data/load.js';
export type { ChatMessage, PromptRecord } from './data/prompts.js';
export { type DemonstrationRecord, parseDemonstrations, parsePrompts } from './data/records.js';
export type { CollectiveStatistics, PendingCollective, ProcessGroup } from './distributed/process-group.js';
export { singleProcessGroup } from './distributed/single-process-group.js';
export type { TensorData } from './dtype.js';
export * from './errors.js';
export { HttpError, type JsonClientOptions, type Transport } from './http/json-client.js';
export * from './kernels/index.js';
export type { ActivationDType } from './models/activations.js';
export { CausalLM, type CreateOptions, type LoadOptions, type Prompt, type WeightDType } from './models/causal-lm.js';
export type { ModelConfig, ModelShape, ModelType } from './models/config.js';
export type { Parameter, Parameters } from './models/parameters.js';
export type { ScoreOptions, TokenScores, TokenSequence } from './models/token-scores.js';
export { type FileSystem, installFileSystem } from './platform/files.js';
export { findOverlaps, type Overlap } from './recipes/raif/contamination.js';
export {
  parseRaifDemonstrations,
  parseRaifPrompts,
  type RaifData,
  type RaifDataOptions,
  type RaifRecord,
} from './recipes/raif/data.js';
export { type RaifRewardOptions, raifRewards } from './recipes/raif/rewards.js';
export { dropLongDemonstrations, dropLongPrompts, type Mix, mixRows } from './recipes/raif/select-rows.js';
export { renderPrompt, type TemplateFamily } from './recipes/raif/templates.js';
export type { Recording } from './recording.js';
export { type AnswerPartOptions, answerPart } from './rewards/answer-part.js';
export { type FormatRewardOptions, formatReward, taggedText } from './rewards/format.js';
export {
  type CheckOptions,
  checkInstructions,
  INSTRUCTION_IDS,
  type Instruction,
  InstructionError,
  type InstructionSummary,
  summariseVerdicts,
  validateInstructions,
} from './rewards/ifeval/index.js';
export { type IFEvalRewardOptions, ifevalReward } from './rewards/ifeval-reward.js';
export {
  type EndpointJudgeOptions,
  endpointJudge,
  type JudgeAnswer,
  type JudgeModel,
  type JudgeProblem,
  type JudgeRewardOptions,
  judgeQuestions,
  judgeReward,
  localJudge,
  type Verdicts,
} from './rewards/judge.js';
export {
  type LengthRewardOptions,
  lengthReward,
  type OverlongPenaltyOptions,
  overlongPenalty,
} from './rewards/length.js';
export {
  answersMatch,
  type CompareOptions,
  compareAnswers,
  extractAnswer,
  gradeAnswer,
  type MathsGrade,
  type Verdict,
} from './rewards/maths.js';
export { type MathsRewardOptions, mathsReward } from './rewards/maths-reward.js';
export { type PooledReward, type PooledRewardOptions, pooledReward } from './rewards/pooled.js';
export { type RegexRewardOptions, regexReward } from './rewards/regex.js';
export { type RepetitionPenaltyOptions, repetitionPenalty } from './rewards/repetition.js';
export type { Reward, RewardFunction, RewardSample, Scores } from './rewards/reward.js';
export { type RewardFailure, type ScoredBatch, scoreBatch } from './rewards/score.js';
export { AsyncRolloutEngine, type AsyncRolloutOptions } from './rollout/async-engine.js';
export {
  DecodeScheduler,
  type DecodeSchedulerOptions,
  QueueFullError,
  type SequenceRequest,
  type TokenEvent,
} from './rollout/decode-scheduler.js';
export type { Completion, GenerateOptions, RolloutEngine } from './rollout/engine.js';
export { NativeEngine, type NativeEngineOptions } from './rollout/native-engine.js';
export {
  OpenAIEngine,
  type OpenAIEngineOptions,
  StaleWeightsError,
  type WeightChannel,
} from './rollout/openai-engine.js';
export type { RolloutServerKind } from './rollout/rollout-servers.js';
export { Device, type PointerOptions, Scope, Tensor } from './tensor.js';
export { ChatTemplate, type ChatTemplateOptions } from './text/chat-template.js';
export { type CharacterTokenizerOptions, Tokenizer } from './text/tokenizer.js';
export { combineTrackers } from './tracking/combine.js';
export type { TrackedCompletion, Tracker } from './tracking/tracker.js';
export { CheckpointError } from './trainer/checkpoint.js';
export { latestCheckpoint, type UnusableCheckpoint } from './trainer/checkpoint-folders.js';
export {
  type GRPOConfig,
  type GRPOOptions,
  grpoConfigSchema,
  type SFTConfig,
  type SFTOptions,
  sftConfigSchema,
} from './trainer/config.js';
export { emptyThinking, withoutThinkingRoom } from './trainer/contrast.js';
export { GRPOTrainer, type GRPOTrainerOptions } from './trainer/grpo-trainer.js';
export {
  ConfigError,
  type ConfigOption,
  configOptions,
  parseConfig,
  parseGRPOConfig,
  parseSFTConfig,
} from './trainer/parse-config.js';
export type { Rollout } from './trainer/rollout.js';
export { SFTTrainer, type SFTTrainerOptions } from './trainer/sft-trainer.js';
export {
  NonFiniteGradientsError,
  type StepReport,
  type TrainerOptions,
  type TrainingSummary,
} from './trainer/trainer.js';
