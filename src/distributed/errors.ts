import { GrpoError } from '../errors.js';
import { exitCodes } from './exit-codes.js';

/** What went wrong between the processes of a run. Every rank throws the same one, whichever rank it began at. */
export interface DistributedFailure {
  code: string;
  message: string;
  /** Ranks that the failure began at. */
  ranks: number[];
  /** What those ranks said last that they were doing; null when they said nothing. */
  activity: string | null;
  /** Exit code that all ranks end with; 75 when starting the run again makes sense. */
  exitCode: number;
}

/** Processes of one run could not meet, or could not go on together. */
export class DistributedError extends GrpoError {
  readonly ranks: readonly number[];
  readonly activity: string | null;
  readonly exitCode: number;

  constructor({ code, message, ranks, activity, exitCode }: DistributedFailure, options?: ErrorOptions) {
    super(code, message, options);
    this.ranks = ranks;
    this.activity = activity;
    this.exitCode = exitCode;
  }

  /** Whether a run that is started again, from its last checkpoint, may get further. */
  get retryable(): boolean {
    return this.exitCode === exitCodes.retryable;
  }
}

/** A rank died, hung, lost its connection, or failed and said so. */
export class RankFailedError extends DistributedError {}

/** The processes of a run could not be brought together. */
export class RendezvousError extends DistributedError {}

/** Settings that say which rank this is, and of how many, that are incomplete or contradict each other. */
export class LaunchEnvironmentError extends GrpoError {
  /** The launcher whose settings these are. */
  readonly launcher: string;
  readonly problems: readonly string[];

  constructor(launcher: string, problems: readonly string[]) {
    super('GRPO_CONFIG', `The settings of ${launcher} cannot be used: ${problems.join('; ')}`);
    this.launcher = launcher;
    this.problems = problems;
  }
}

/** The error as another process can make it again. */
export function failureOf(error: DistributedError): DistributedFailure {
  const { code, message, activity, exitCode } = error;
  return { code, message, ranks: [...error.ranks], activity, exitCode };
}

export function errorOf(failure: DistributedFailure): DistributedError {
  const kind = failure.code.startsWith('GRPO_RENDEZVOUS') ? RendezvousError : RankFailedError;
  return new kind(failure);
}
