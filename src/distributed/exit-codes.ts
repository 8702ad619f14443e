import { constants } from 'node:os';
import { CollectiveError, GrpoError } from '../errors.js';

/** What the exit code of a process of a run says. */
export const exitCodes = {
  /** Starting the same run again would fail in the same way. */
  failed: 1,
  /** The command line, the configuration or the settings of the launcher are wrong. */
  config: 2,
  /** A process, a machine or the network failed: start the run again, and it goes on from its last checkpoint. */
  retryable: 75,
} as const;

/** The exit code that an error stands for. */
export function exitCodeOf(error: unknown): number {
  const own = (error as { exitCode?: unknown } | null)?.exitCode;
  if (error instanceof GrpoError && typeof own === 'number') return own;
  if (!(error instanceof GrpoError)) return exitCodes.failed;
  if (error.code === 'GRPO_CONFIG') return exitCodes.config;
  return fromOutside(error) ? exitCodes.retryable : exitCodes.failed;
}

/** Whether what failed is a device, another process or the network, and not this program. */
function fromOutside(error: GrpoError): boolean {
  if (error instanceof CollectiveError) return error.reason !== 'mismatch' && error.reason !== 'input';
  return error.code === 'GRPO_DEVICE_LOST';
}

/** The exit code of a process that ended by itself or by a signal: nothing it did decides whether another try helps. */
export function exitCodeOfProcess(code: number | null, signal: NodeJS.Signals | null): number {
  if (code !== null) return code;
  if (signal === 'SIGINT') return 128 + constants.signals.SIGINT;
  return exitCodes.retryable;
}
