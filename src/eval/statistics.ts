import { randomSource } from '../data/random.js';

/** An observed share with its confidence interval. */
export interface Estimate {
  /** hits / count; 0 when nothing was counted. */
  value: number;
  hits: number;
  count: number;
  low: number;
  high: number;
  method: 'wilson' | 'bootstrap';
}

export const confidenceLevel = 0.95;
/** The normal distribution's quantile of (1 + confidenceLevel) / 2. */
const z = 1.959963984540054;

export const bootstrapResamples = 2000;

/** A share of independent trials, with Wilson's score interval (Wilson 1927): it holds at 0 and 1 and for few trials. */
export function wilson(hits: number, count: number): Estimate {
  if (count === 0) return { value: 0, hits, count, low: 0, high: 1, method: 'wilson' };
  const p = hits / count;
  const centre = p + z ** 2 / (2 * count);
  const margin = z * Math.sqrt((p * (1 - p)) / count + z ** 2 / (4 * count ** 2));
  const scale = 1 + z ** 2 / count;
  // At the ends rounding could leave the observed share just outside of its own interval.
  const low = hits === 0 ? 0 : (centre - margin) / scale;
  const high = hits === count ? 1 : (centre + margin) / scale;
  return { value: p, hits, count, low, high, method: 'wilson' };
}

/** With fewer groups than this a percentile bootstrap is too narrow. */
const leastGroups = 30;

/**
 * A share of trials that come in groups (the instructions of a prompt), with the percentile interval of a bootstrap that
 * draws whole groups: trials of one group are not independent. Wilson's interval stands where each group has one trial
 * and, for as many trials as there are groups, where resampling would say too little: with few groups, and when all
 * trials agree.
 */
export function groupedShare(groups: readonly (readonly boolean[])[], seed = 0): Estimate {
  const filled = groups.filter((group) => group.length > 0);
  const sizes = Float64Array.from(filled, (group) => group.length);
  const hitsOf = Float64Array.from(filled, (group) => group.filter(Boolean).length);
  const hits = sum(hitsOf);
  const count = sum(sizes);
  if (count === filled.length) return wilson(hits, count);
  if (filled.length < leastGroups || hits === 0 || hits === count) {
    return { ...wilson((hits / count) * filled.length, filled.length), value: hits / count, hits, count };
  }
  const next = randomSource(seed, 0);
  const shares = new Float64Array(bootstrapResamples);
  for (let b = 0; b < bootstrapResamples; b++) {
    let drawnHits = 0;
    let drawnCount = 0;
    for (let i = 0; i < filled.length; i++) {
      const group = Math.floor((next() / 2 ** 32) * filled.length);
      drawnHits += hitsOf[group]!;
      drawnCount += sizes[group]!;
    }
    shares[b] = drawnHits / drawnCount;
  }
  shares.sort();
  const tail = (1 - confidenceLevel) / 2;
  return {
    value: hits / count,
    hits,
    count,
    low: quantile(shares, tail),
    high: quantile(shares, 1 - tail),
    method: 'bootstrap',
  };
}

/** What the intervals mean, for readers of a result. */
export function describeIntervals(unit: string, grouped: string | null): Record<string, string> {
  const level = `${100 * confidenceLevel} %`;
  const wilsonText = `${level} Wilson score interval over ${unit}s`;
  if (grouped === null) return { wilson: wilsonText };
  return {
    wilson: wilsonText,
    bootstrap: `${level} percentile bootstrap over ${unit}s for shares of ${grouped}s, from ${leastGroups} ${unit}s on (${bootstrapResamples} resamples, seed 0)`,
  };
}

/** Linear between the two nearest of sorted values. */
function quantile(sorted: Float64Array, share: number): number {
  const position = share * (sorted.length - 1);
  const below = Math.floor(position);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below]! + (position - below) * (sorted[above]! - sorted[below]!);
}

function sum(values: Float64Array): number {
  return values.reduce((total, value) => total + value, 0);
}
