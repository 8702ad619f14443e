import { InvalidArgumentError } from '../errors.js';

/** A completion with what an update needs to know of it. Arrays have one entry a token of the completion. */
export interface Rollout {
  /** Completions of one prompt have the same group. */
  group: number | string;
  promptIds: Int32Array;
  completionIds: Int32Array;
  /** NaN: not scorable. Not used when `advantage` is given. */
  reward?: number;
  advantage?: number;
  /** Log-probs under the policy that the ratio is taken to. Without them the ratio is 1. */
  oldLogProbs?: Float32Array;
  /** Log-probs under the reference policy. Without them they are computed when `beta` > 0. */
  refLogProbs?: Float32Array;
  /** Log-probs that the engine reported, for `rolloutCorrection`. */
  rolloutLogProbs?: Float32Array;
  /** 0 leaves a token out of the loss; all 0 leaves the rollout out of the update, denominators included. */
  mask?: ArrayLike<number>;
  /** The completion was cut at its longest; `maskTruncatedCompletions` leaves such ones out. */
  truncated?: boolean;
}

const tokenArrays = ['oldLogProbs', 'refLogProbs', 'rolloutLogProbs', 'mask'] as const;

/** Throws an `InvalidArgumentError` that names the first rollout that cannot be used. */
export function checkRollouts(rollouts: readonly Rollout[]): void {
  if (!Array.isArray(rollouts) || rollouts.length === 0) {
    throw new InvalidArgumentError('rollouts', 'at least one rollout', rollouts);
  }
  const first = rollouts[0]!;
  rollouts.forEach((rollout, i) => {
    const at = `rollouts[${i}]`;
    for (const key of ['promptIds', 'completionIds'] as const) {
      if (!(rollout[key] instanceof Int32Array) || rollout[key].length === 0) {
        throw new InvalidArgumentError(`${at}.${key}`, 'an Int32Array with at least one id', rollout[key]);
      }
    }
    for (const key of tokenArrays) {
      const value = rollout[key];
      if (value !== undefined && value.length !== rollout.completionIds.length) {
        const expected = `${rollout.completionIds.length} entries, one a token of the completion`;
        throw new InvalidArgumentError(`${at}.${key}`, expected, `${value.length} entries`);
      }
      if (key !== 'mask' && (value === undefined) !== (first[key] === undefined)) {
        throw new InvalidArgumentError(`${at}.${key}`, 'the field in all rollouts or in none', value);
      }
    }
    if (rollout.advantage === undefined && rollout.reward === undefined) {
      throw new InvalidArgumentError(at, 'a reward or an advantage', 'neither');
    }
    if ((rollout.advantage === undefined) !== (first.advantage === undefined)) {
      throw new InvalidArgumentError(`${at}.advantage`, 'the field in all rollouts or in none', rollout.advantage);
    }
    if (rollout.advantage !== undefined && !Number.isFinite(rollout.advantage)) {
      throw new InvalidArgumentError(`${at}.advantage`, 'a finite number', rollout.advantage);
    }
  });
}

/** The rollouts with those of a group side by side, groups in the order of their first, and where each group begins. */
export function byGroup(rollouts: readonly Rollout[]): { sorted: Rollout[]; offsets: Int32Array } {
  const groups = new Map<number | string, Rollout[]>();
  for (const rollout of rollouts) {
    const group = groups.get(rollout.group);
    if (group) group.push(rollout);
    else groups.set(rollout.group, [rollout]);
  }
  const offsets = new Int32Array(groups.size + 1);
  [...groups.values()].forEach((group, i) => {
    offsets[i + 1] = offsets[i]! + group.length;
  });
  return { sorted: [...groups.values()].flat(), offsets };
}

/** Whether the rollout's own mask leaves any of it. */
export function takesPart({ mask }: Rollout): boolean {
  return mask === undefined || Array.from(mask).some((value) => value !== 0);
}

/** 1 for each token that counts in the loss, or null when all do. */
export function lossMask(rollout: Rollout, maskTruncated: boolean): Int32Array | null {
  if (maskTruncated && rollout.truncated) return new Int32Array(rollout.completionIds.length);
  return rollout.mask ? Int32Array.from(rollout.mask, (value) => (value ? 1 : 0)) : null;
}

/**
 * Rollouts as they stand in a checkpoint. Finite numbers survive JSON exactly: every float32 is a double. The others,
 * such as the NaN of a reward that could not be scored, stand as texts.
 */
export function rolloutToJson(rollout: Rollout): Record<string, unknown> {
  const toJson = (value: number) => (Number.isFinite(value) ? value : String(value));
  const json: Record<string, unknown> = { ...rollout };
  if (rollout.reward !== undefined) json.reward = toJson(rollout.reward);
  for (const key of ['promptIds', 'completionIds', ...tokenArrays] as const) {
    const value = rollout[key];
    if (value !== undefined) json[key] = Array.from(value, toJson);
  }
  return json;
}

export function rolloutFromJson(json: Record<string, unknown>): Rollout {
  const floats = (value: unknown) => (value === undefined ? undefined : Float32Array.from(value as number[], Number));
  const { reward, oldLogProbs, refLogProbs, rolloutLogProbs } = json;
  return {
    ...(json as unknown as Rollout),
    ...(reward !== undefined && { reward: Number(reward) }),
    promptIds: Int32Array.from(json.promptIds as number[]),
    completionIds: Int32Array.from(json.completionIds as number[]),
    oldLogProbs: floats(oldLogProbs),
    refLogProbs: floats(refLogProbs),
    rolloutLogProbs: floats(rolloutLogProbs),
  };
}
