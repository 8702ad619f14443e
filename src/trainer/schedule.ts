import type { GRPOConfig } from './config.js';

export type ScheduleOptions = Pick<
  GRPOConfig,
  'learningRate' | 'lrSchedulerType' | 'minLearningRateRatio' | 'warmupSteps' | 'warmupRatio' | 'warmupFromZero'
>;

/**
 * The learning rate of the update after `step` updates, out of `totalSteps`. As in transformers the warm-up starts at 0
 * (unless warmupFromZero is off: then at one step of the rise) and linear and cosine would reach their end one update after the last.
 */
export function learningRateAt(step: number, totalSteps: number, options: ScheduleOptions): number {
  const { learningRate, lrSchedulerType, minLearningRateRatio } = options;
  const warmup = options.warmupSteps || Math.ceil(options.warmupRatio * totalSteps);
  if (step < warmup) return (learningRate * (options.warmupFromZero ? step : step + 1)) / warmup;
  if (lrSchedulerType === 'constant') return learningRate;
  const progress = Math.min(1, (step - warmup) / Math.max(1, totalSteps - warmup));
  const factor = lrSchedulerType === 'linear' ? 1 - progress : 0.5 * (1 + Math.cos(Math.PI * progress));
  return learningRate * (minLearningRateRatio + (1 - minLearningRateRatio) * factor);
}

/** Updates of a whole run; null when neither the data set nor maxSteps says so. */
export function totalUpdates(
  { maxSteps, numTrainEpochs }: Pick<GRPOConfig, 'maxSteps' | 'numTrainEpochs'>,
  updatesPerEpoch: number | null,
): number | null {
  return maxSteps ?? (updatesPerEpoch === null ? null : Math.ceil(numTrainEpochs * updatesPerEpoch));
}
