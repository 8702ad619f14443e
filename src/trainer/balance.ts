/** What an item of work costs: at the beginning of a run, and right after another one whose work it shares. */
export interface Cost {
  alone: number;
  joined: number;
}

/**
 * Cuts a list of work into `parts` runs of neighbours so that the most expensive run is as cheap as it can be. Run p has
 * the items from offsets[p] up to offsets[p + 1]; it may be empty. A function of its arguments alone: every rank finds
 * the same cut.
 */
export function balancedRuns(costs: readonly Cost[], parts: number): number[] {
  let low = Math.max(0, ...costs.map(({ alone }) => alone));
  let high = costs.reduce((sum, { alone }) => sum + alone, 0);
  while (low < high) {
    const limit = Math.floor((low + high) / 2);
    if (fill(costs, limit).length - 1 <= parts) high = limit;
    else low = limit + 1;
  }
  const offsets = fill(costs, high);
  while (offsets.length <= parts) offsets.push(costs.length);
  return offsets;
}

/** Offsets of the runs when each takes as much as `limit` lets it. */
function fill(costs: readonly Cost[], limit: number): number[] {
  const offsets = [0];
  let used = 0;
  costs.forEach(({ alone, joined }, i) => {
    if (i > offsets.at(-1)! && used + joined > limit) {
      offsets.push(i);
      used = alone;
    } else {
      used += i === offsets.at(-1) ? alone : joined;
    }
  });
  offsets.push(costs.length);
  return offsets;
}

interface Sequence {
  promptIds: ArrayLike<number>;
  completionIds: ArrayLike<number>;
}

/** The tokens that a sequence adds to a batch: completions of one prompt share it when they stand side by side. */
export function tokenCosts(sequences: readonly Sequence[]): Cost[] {
  return sequences.map(({ promptIds, completionIds }, i) => {
    const shared = i > 0 && sameTokens(promptIds, sequences[i - 1]!.promptIds);
    const alone = promptIds.length + completionIds.length;
    return { alone, joined: shared ? completionIds.length : alone };
  });
}

function sameTokens(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  if (a === b) return true;
  return a.length === b.length && Array.prototype.every.call(a, (token, i) => token === b[i]);
}

/** The run of a rank, by tokens. */
export function tokenShare<T extends Sequence>(sequences: readonly T[], rank: number, worldSize: number): T[] {
  const offsets = balancedRuns(tokenCosts(sequences), worldSize);
  return sequences.slice(offsets[rank], offsets[rank + 1]);
}

/** Runs of `size` neighbours; the last may be shorter. */
export function microBatches<T>(rows: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(rows.length / size) }, (_, i) => rows.slice(i * size, (i + 1) * size));
}
