export * from './advantages.js';
export * from './entropy-threshold.js';
export * from './log-probs.js';
export * from './policy-loss.js';
export * from './policy-loss-from-logits.js';
export * from './policy-statistics.js';
