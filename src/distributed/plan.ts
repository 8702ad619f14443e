import { bytesPerElement } from '../backend/backend.js';
import { InvalidArgumentError } from '../errors.js';
import type { ActivationDType } from '../models/activations.js';
import type { ModelConfig } from '../models/config.js';
import { shardLength } from '../models/parameters.js';
import type { GRPOConfig } from '../trainer/config.js';
import { estimateMemory, type MemoryEstimate, parameterCount } from '../trainer/plan.js';

/** What a run on many devices needs: memory, traffic between them, and time. `docs/distributed.md` explains the figures. */

export interface PlanInput {
  model: ModelConfig;
  config: GRPOConfig;
  dtype: 'f32' | 'bf16';
  activations: ActivationDType;
  promptTokens: number;
  worldSize: number;
  /** The reference is kept, and computed, on another device. */
  referenceElsewhere?: boolean;
}

/** Bytes that a rank sends in an optimiser update, by what they are for. */
export interface Traffic {
  /** Sum of the gradients over the ranks. */
  gradients: number;
  /** The weights that each rank has updated, with zeroStage 1 and 2. */
  weights: number;
  /** Completions with their log-probs, of which every rank gets all, as JSON. */
  completions: number;
  total: number;
}

const float = 4;
/** Of a completion's token in JSON: its id, and its log-prob with up to 19 digits and signs. */
const jsonBytesPerToken = 26;

/**
 * Bytes that a rank sends. An all-reduce of B bytes over n ranks sends 2 (n - 1) / n B from each, a reduce-scatter and an
 * all-gather (n - 1) / n B each: the least there is, which rings reach (Patarasuk and Yuan, 2009). Stage 0 all-reduces the
 * gradients, which are float32; stage 1 also gathers the weights; stage 2 sends each gradient to its owner instead (ZeRO,
 * arXiv:1910.02054, section 7.2: 2 P elements in all, as much as without), but after every micro-batch.
 */
export function estimateTraffic({ model, config, dtype, worldSize: n }: PlanInput): Traffic {
  const count = parameterCount(model);
  const share = (n - 1) / n;
  // Parts of equal length, so the last one may reach behind the weights.
  const padded = shardLength(count, n) * n;
  const gradients =
    config.zeroStage === 2 ? config.gradientAccumulationSteps * share * float * padded : 2 * share * float * count;
  const weights = config.zeroStage > 0 ? share * bytesPerElement[dtype] * padded : 0;
  const perRank = config.perDeviceTrainBatchSize * config.gradientAccumulationSteps * config.maxCompletionLength;
  const completions = n > 1 ? ((n - 1) * perRank * jsonBytesPerToken) / config.numIterations : 0;
  return { gradients, weights, completions, total: gradients + weights + completions };
}

/** The machines, as far as the time of an update depends on them. Every figure is an assumption that can be changed. */
export interface Cluster {
  devicesPerNode: number;
  /** Bytes a second that a device sends to the others of its machine, and all of a machine's devices together to others. */
  intraNodeBandwidth: number;
  interNodeBandwidth: number;
  /** Seconds for a message to arrive. */
  intraNodeLatency: number;
  interNodeLatency: number;
  /** Operations a second that a device does at its peak, and the share of them that training reaches. */
  peakFlops: number;
  utilisation: number;
  /** Bytes a second that a device reads from its own memory, and the share of them that sampling reaches. */
  memoryBandwidth: number;
  memoryUtilisation: number;
  /** Share of the exchange of gradients that runs behind computation. */
  overlap: number;
}

/** Eight H100 SXM a machine, with NVLink inside and eight ports of 400 Gbit/s to others, as their data sheets have them. */
export const h100Cluster: Cluster = {
  devicesPerNode: 8,
  intraNodeBandwidth: 450e9,
  interNodeBandwidth: 8 * 50e9,
  intraNodeLatency: 5e-6,
  interNodeLatency: 20e-6,
  peakFlops: 989e12,
  utilisation: 0.35,
  memoryBandwidth: 3.35e12,
  memoryUtilisation: 0.6,
  overlap: 0,
};

/** Seconds of an optimiser update. */
export interface TimeEstimate {
  sampling: number;
  training: number;
  communication: number;
  total: number;
  /** Share of the time that is computation: the throughput a device, compared with one that is alone. */
  efficiency: number;
}

/**
 * A model, not a measurement. Sampling reads all weights, and the keys and values of all rows, once a token. Training does 6
 * operations a weight and token (8 with gradientCheckpointing), and 2 for the reference (Kaplan et al., arXiv:2001.08361,
 * section 2.1). An exchange is done in rings: inside a machine, then between machines, each of which all its devices share.
 */
export function estimateTime(input: PlanInput, cluster: Cluster = h100Cluster): TimeEstimate {
  const { model, config, dtype, activations, promptTokens } = input;
  const count = parameterCount(model);
  const rows = config.perDeviceTrainBatchSize * config.gradientAccumulationSteps;
  const { maxCompletionLength: length } = config;
  const keysAndValues =
    2 * model.numKeyValueHeads * model.headDim * model.numHiddenLayers * bytesPerElement[activations];
  const readPerToken = bytesPerElement[dtype] * count + rows * (promptTokens + length / 2) * keysAndValues;
  const sampled = (length * readPerToken) / (cluster.memoryBandwidth * cluster.memoryUtilisation);
  const operations = (config.gradientCheckpointing ? 8 : 6) + (config.beta > 0 && !input.referenceElsewhere ? 2 : 0);
  const tokens = rows * (promptTokens + length);
  const training = (operations * count * tokens) / (cluster.peakFlops * cluster.utilisation);
  const sampling = sampled / config.numIterations;
  const { gradients, weights, completions } = estimateTraffic(input);
  const time = (bytes: number, phases = 1) => exchangeTime(bytes, phases, input.worldSize, cluster);
  const gradientTime = time(gradients, config.zeroStage === 2 ? 1 : 2);
  const exchanged = (1 - cluster.overlap) * gradientTime + time(weights) + time(completions);
  const computed = sampling + training;
  const total = computed + exchanged;
  return { sampling, training, communication: exchanged, total, efficiency: computed / total };
}

/** Seconds in which each of `n` ranks sends `sent` bytes around its rings, so many times. */
function exchangeTime(sent: number, phases: number, n: number, cluster: Cluster): number {
  if (sent === 0) return 0;
  const inside = Math.min(n, cluster.devicesPerNode);
  const nodes = Math.ceil(n / cluster.devicesPerNode);
  const whole = (sent * n) / (n - 1);
  const within = (whole * (inside - 1)) / inside / cluster.intraNodeBandwidth;
  // The devices of a machine have each a part of the whole to exchange with those of other machines.
  const between = (whole * (nodes - 1)) / nodes / cluster.interNodeBandwidth;
  const messages = (inside - 1) * cluster.intraNodeLatency + (nodes - 1) * cluster.interNodeLatency;
  return within + between + phases * messages;
}

export interface DevicePlan {
  worldSize: number;
  zeroStage: number;
  memory: MemoryEstimate;
  traffic: Traffic;
  time: TimeEstimate;
}

/** The plans for some numbers of devices and stages of ZeRO. */
export function planDevices(
  { config, ...input }: Omit<PlanInput, 'worldSize'>,
  { worldSizes, zeroStages }: { worldSizes: readonly number[]; zeroStages: readonly number[] },
  cluster: Cluster = h100Cluster,
): DevicePlan[] {
  return worldSizes.flatMap((worldSize) => {
    if (!(Number.isInteger(worldSize) && worldSize >= 1 && worldSize <= 1024)) {
      throw new InvalidArgumentError('devices', 'a whole number from 1 to 1024', worldSize);
    }
    return (worldSize === 1 ? [0] : zeroStages).map((stage) => {
      const zeroStage = stage as GRPOConfig['zeroStage'];
      const plan = { ...input, config: { ...config, zeroStage }, worldSize };
      return {
        worldSize,
        zeroStage,
        memory: estimateMemory(plan.model, plan.config, plan),
        traffic: estimateTraffic(plan),
        time: estimateTime(plan, cluster),
      };
    });
  });
}
