import type { Tracker } from './tracker.js';

/** The part of a stream that progress needs; `process.stderr` is one. */
export interface ProgressStream {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

export interface ConsoleOptions {
  stream?: ProgressStream;
  /** What stands before the step number. Default `step`. */
  label?: string;
  /** Milliseconds on a clock, for tests. */
  now?: () => number;
}

const redrawMs = 100;
const plainLineMs = 2000;

/**
 * Progress on one line: step, reward, KL, tokens per second, time left. On a terminal the line is redrawn at most ten
 * times a second; elsewhere a new line appears every two seconds at most, and at every evaluation and at the end.
 */
export class ConsoleTracker implements Tracker {
  readonly #stream: ProgressStream;
  #totalSteps = 0;
  readonly #label: string;
  readonly #now: () => number;
  #lastDrawn = Number.NEGATIVE_INFINITY;
  #firstStep: { step: number; time: number } | null = null;
  #line = '';
  #drawn = '';

  constructor(options: ConsoleOptions = {}) {
    this.#stream = options.stream ?? process.stderr;
    this.#label = options.label ?? 'step';
    this.#now = options.now ?? Date.now;
  }

  start(config: Record<string, unknown>): void {
    this.#totalSteps = Number(config.totalSteps);
  }

  metrics(step: number, values: Readonly<Record<string, number>>): void {
    const now = this.#now();
    const evaluation = evaluationText(step, this.#label, values);
    if (evaluation) this.print(evaluation);
    if (!Object.keys(values).some((name) => !name.startsWith('eval'))) return;
    this.#firstStep ??= { step, time: now };
    this.#line = this.#progressText(step, values, now);
    const interval = this.#stream.isTTY ? redrawMs : plainLineMs;
    if (now - this.#lastDrawn >= interval || step >= this.#totalSteps) this.#draw(now);
  }

  /** A line of its own, above the progress line. */
  print(text: string): void {
    this.#stream.write(this.#stream.isTTY ? `\r\x1b[K${text}\n` : `${text}\n`);
    if (this.#stream.isTTY && this.#drawn) this.#stream.write(this.#drawn);
  }

  async finish(): Promise<void> {
    if (this.#line && this.#line !== this.#drawn) this.#draw(this.#now());
    if (this.#stream.isTTY && this.#drawn) this.#stream.write('\n');
    this.#line = '';
    this.#drawn = '';
  }

  #draw(now: number): void {
    this.#lastDrawn = now;
    const width = (this.#stream.columns ?? 120) - 1;
    this.#drawn = this.#stream.isTTY ? this.#line.slice(0, width) : this.#line;
    this.#stream.write(this.#stream.isTTY ? `\r\x1b[K${this.#drawn}` : `${this.#drawn}\n`);
  }

  #progressText(step: number, values: Readonly<Record<string, number>>, now: number): string {
    const parts = [`${this.#label} ${step}/${this.#totalSteps}`];
    const add = (name: string, label: string, digits: number) => {
      const value = values[name];
      if (value !== undefined) parts.push(`${label} ${format(value, digits)}`);
    };
    if (values.reward === undefined) add('loss', 'loss', 4);
    add('reward', 'reward', 3);
    add('kl', 'KL', 4);
    add('tokens_per_second', 'tokens/s', 0);
    const secondsLeft = this.#secondsLeft(step, now);
    if (secondsLeft !== null) parts.push(`${formatDuration(secondsLeft)} left`);
    return parts.join('  ');
  }

  /** From the mean time of a step since this process began; null until two steps were seen. */
  #secondsLeft(step: number, now: number): number | null {
    const first = this.#firstStep;
    if (!first || step <= first.step) return null;
    return (((now - first.time) / (step - first.step)) * (this.#totalSteps - step)) / 1000;
  }
}

function evaluationText(step: number, label: string, values: Readonly<Record<string, number>>): string | null {
  const shown = Object.entries(values).flatMap(([name, value]) => {
    const part = /^eval\/(?:(reward|loss)|rewards\/(.+)\/mean)$/.exec(name);
    return part ? [`${part[1] ?? part[2]} ${format(value, 3)}`] : [];
  });
  return shown.length > 0 ? `${label} ${step}  held out: ${shown.join('  ')}` : null;
}

function format(value: number, digits: number): string {
  return Number.isFinite(value) ? value.toFixed(digits) : String(value);
}

/** `42 s`, `3:07`, `1:02:09`. */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const two = (value: number) => String(value).padStart(2, '0');
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}:${two(whole % 60)}`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}`;
}
