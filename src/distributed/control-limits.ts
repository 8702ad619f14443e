import { InvalidArgumentError } from '../errors.js';

/** How long the processes of a run wait for each other. Seconds. */
export interface ControlLimits {
  /** For all ranks to join. */
  joinTimeout: number;
  /** Between two signs of life of a rank. */
  heartbeat: number;
  /** A rank that gave no sign of life for so long hangs, or its machine or its link is gone. */
  hungAfter: number;
}

/** A dead process is noticed at once, by its closed connection; `hungAfter` is for stopped processes and cut links. */
export const defaultLimits: ControlLimits = { joinTimeout: 300, heartbeat: 2, hungAfter: 30 };

export function checkLimits(given: Partial<ControlLimits> = {}): ControlLimits {
  const limits = { ...defaultLimits, ...given };
  for (const [name, value] of Object.entries(limits)) {
    if (!(value > 0 && value <= 2 ** 31 / 1000)) throw new InvalidArgumentError(name, 'a positive number', value);
  }
  if (limits.hungAfter < 2 * limits.heartbeat) {
    throw new InvalidArgumentError(
      'hungAfter',
      `at least two heartbeats (${2 * limits.heartbeat} s)`,
      limits.hungAfter,
    );
  }
  return limits;
}
