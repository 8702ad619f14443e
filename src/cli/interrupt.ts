/** Ends work between two steps at the first Ctrl-C (or SIGTERM); the second ends the process at once. */
export class Interrupt {
  readonly #controller = new AbortController();
  readonly #notice: () => void;

  /** `notice` is called at the first signal. */
  constructor(notice: () => void) {
    this.#notice = notice;
    process.on('SIGINT', this.#receive);
    process.on('SIGTERM', this.#receive);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  dispose(): void {
    process.off('SIGINT', this.#receive);
    process.off('SIGTERM', this.#receive);
  }

  readonly #receive = (): void => {
    if (this.signal.aborted) process.exit(interruptedExitCode);
    this.#controller.abort();
    this.#notice();
  };
}

/** What shells expect of a program that Ctrl-C ended. */
export const interruptedExitCode = 130;
