import { InvalidArgumentError } from '../../errors.js';

/** An instruction that cannot be checked: an id that does not exist, or a parameter that is missing, unknown or out of range. */
export class InstructionError extends InvalidArgumentError {
  readonly instructionId: string;
  readonly parameter: string | undefined;

  constructor(instructionId: string, parameter: string | undefined, expected: string, got: unknown) {
    super(parameter === undefined ? instructionId : `${parameter} of ${instructionId}`, expected, got);
    this.instructionId = instructionId;
    this.parameter = parameter;
  }
}

/** Decides whether a count satisfies an instruction. */
export type Comparison = (count: number) => boolean;

/** Reads the parameters of one instruction. Every mistake is an error now, since the original draws what is missing at random. */
export class Parameters {
  private readonly values: Map<string, unknown>;
  private readonly read = new Set<string>();

  constructor(
    private readonly instructionId: string,
    kwargs: object,
  ) {
    // Some copies of the data give every row every parameter and null where it does not apply.
    this.values = new Map(Object.entries(kwargs).filter(([, value]) => value !== null && value !== undefined));
  }

  /** An integer that is not negative. */
  count(name: string, { min = 0, max = Number.MAX_SAFE_INTEGER } = {}): number {
    const value = this.take(name);
    if (Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max) return value as number;
    const range = max === Number.MAX_SAFE_INTEGER ? `an integer >= ${min}` : `an integer from ${min} to ${max}`;
    throw this.error(name, range, value);
  }

  /** Text with something in it. */
  text(name: string): string {
    const value = this.take(name);
    if (typeof value === 'string' && value.trim() !== '') return value;
    throw this.error(name, 'a string that is not blank', value);
  }

  texts(name: string): string[] {
    const value = this.take(name);
    const valid =
      Array.isArray(value) && value.length > 0 && value.every((v) => typeof v === 'string' && v.trim() !== '');
    if (valid) return value;
    throw this.error(name, 'a list of strings, none of them blank', value);
  }

  oneOf(name: string, choices: readonly string[]): string {
    const value = this.take(name);
    if (typeof value === 'string' && choices.includes(value)) return value;
    throw this.error(name, `one of ${choices.join(', ')}`, value);
  }

  /** A relation, in English or in Chinese, to a threshold. */
  comparison(relationName: string, thresholdName: string): Comparison {
    const relation = this.oneOf(relationName, ['less than', 'at least', '少于', '至少']);
    const threshold = this.count(thresholdName);
    return relation === 'less than' || relation === '少于'
      ? (count) => count < threshold
      : (count) => count >= threshold;
  }

  /** An error about a parameter whose value the reading functions above could not judge. */
  error(name: string, expected: string, got: unknown): InstructionError {
    return new InstructionError(this.instructionId, name, expected, got);
  }

  /** Rejects what nobody asked for: a misspelt name would otherwise be ignored. */
  finish(): void {
    for (const [name, value] of this.values) {
      if (!this.read.has(name)) {
        const known = this.read.size === 0 ? 'no parameters' : `only ${[...this.read].join(', ')}`;
        throw this.error(name, known, value);
      }
    }
  }

  private take(name: string): unknown {
    this.read.add(name);
    return this.values.get(name);
  }
}
