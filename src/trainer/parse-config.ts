import type { z } from 'zod';
import { GrpoError } from '../errors.js';
import { type GRPOConfig, grpoConfigSchema, type SFTConfig, sftConfigSchema } from './config.js';
import { optionsWithoutEffect } from './options-without-effect.js';

/** A configuration that cannot be used; lists every problem with the path of its option. */
export class ConfigError extends GrpoError {
  readonly source: string;
  readonly problems: readonly string[];

  constructor(source: string, problems: readonly string[]) {
    super('GRPO_CONFIG', `${source}: ${problems.join(problems.length > 1 ? '\n  ' : '')}`);
    this.source = source;
    this.problems = problems;
  }
}

/** One option as flags and `--help` need it. */
export interface ConfigOption {
  name: string;
  description: string;
  /** An `object` has no flag. */
  type: 'number' | 'integer' | 'boolean' | 'string' | 'list' | 'object';
  /** For `list`: the type of the entries. */
  items?: 'number' | 'string';
  /** `null` is a value: the option can be switched off. */
  nullable: boolean;
  default: unknown;
  choices?: readonly string[];
}

/** Checks `raw` against a schema. `source` (a file name, "flags") begins the message of a `ConfigError`. */
export function parseConfig<Schema extends z.ZodObject>(
  schema: Schema,
  raw: unknown,
  source = 'config',
): z.output<Schema> {
  const result = schema.safeParse(raw, { reportInput: true });
  if (result.success) return result.data;
  throw new ConfigError(
    source,
    result.error.issues.flatMap((issue) => describeIssue(issue, schema)),
  );
}

/**
 * The options of `GRPOTrainer`, checked one by one and together. Without `generates` the batch need not hold whole groups:
 * rollouts come from the caller.
 */
export function parseGRPOConfig(raw: unknown, source?: string, { generates = true, worldSize = 1 } = {}): GRPOConfig {
  const config = parseConfig(grpoConfigSchema, raw, source);
  const problems = [
    ...(generates ? generationProblems(config, worldSize) : []),
    ...lossProblems(config),
    ...optionsWithoutEffect(config),
    ...runProblems(config),
  ];
  if (problems.length > 0) throw new ConfigError(source ?? 'config', problems);
  return config;
}

/** The options of `SFTTrainer`, checked one by one and together. */
export function parseSFTConfig(raw: unknown, source?: string): SFTConfig {
  const config = parseConfig(sftConfigSchema, raw, source);
  const problems = [...runProblems(config)];
  if (problems.length > 0) throw new ConfigError(source ?? 'config', problems);
  return config;
}

/** The options of a schema in its order. */
export function configOptions(schema: z.ZodObject): ConfigOption[] {
  return Object.entries(schema.shape).map(([name, field]) => describeOption(name, field as z.ZodType));
}

/** Options that are legal alone but not together. */
function* generationProblems(c: GRPOConfig, worldSize: number): Generator<string> {
  if (c.baseline !== 'none' && c.numGenerations < 2) {
    yield `numGenerations: must be at least 2 with baseline ${c.baseline}, got ${c.numGenerations}`;
  }
  const steps = c.stepsPerGeneration ?? c.gradientAccumulationSteps;
  const generated = c.perDeviceTrainBatchSize * steps * worldSize;
  if (generated % c.numGenerations !== 0) {
    yield `numGenerations: ${c.numGenerations} must divide the ${generated} completions of a generation ` +
      `(perDeviceTrainBatchSize ${c.perDeviceTrainBatchSize} x stepsPerGeneration ${steps}` +
      `${worldSize > 1 ? ` x ${worldSize} ranks` : ''})`;
  }
  if (c.contrast) {
    const without = c.numGenerations * c.contrast.share;
    if (!Number.isInteger(without) || c.numGenerations - without < 2) {
      yield 'contrast.share: numGenerations x share must be a whole number that leaves two completions, ' +
        `got ${c.numGenerations} x ${c.contrast.share}`;
    }
  }
}

function* lossProblems(c: GRPOConfig): Generator<string> {
  if (c.lossType === 'cispo' && c.epsilonHigh === null) {
    yield 'epsilonHigh: lossType cispo needs it, as the cap of the ratio (its paper: 5)';
  }
  const clips = ['grpo', 'bnpo', 'dapo', 'dr_grpo', 'luspo'].includes(c.lossType);
  if (c.delta !== null && !clips) yield `delta: lossType ${c.lossType} has no two-sided clip`;
  if (c.delta !== null && c.delta <= 1 + (c.epsilonHigh ?? c.epsilon)) {
    yield `delta: must be greater than 1 + epsilonHigh (${1 + (c.epsilonHigh ?? c.epsilon)}), got ${c.delta}`;
  }
  if (clips && c.epsilon > 1) yield `epsilon: must be at most 1 with lossType ${c.lossType}, got ${c.epsilon}`;
  if (c.lossType === 'vespo' && c.importanceSamplingLevel === 'sequence') {
    yield 'importanceSamplingLevel: must be token with lossType vespo, whose weight is that of the sequence already';
  }
  if (c.lossType === 'vespo' && c.rolloutCorrection?.startsWith('sequence')) {
    yield `rolloutCorrection: must be a token mode with lossType vespo, got ${c.rolloutCorrection}`;
  }
  if (c.rolloutCorrectionMin > c.rolloutCorrectionCap) {
    yield `rolloutCorrectionMin: must be at most rolloutCorrectionCap (${c.rolloutCorrectionCap}), got ${c.rolloutCorrectionMin}`;
  }
  if (c.rolloutCorrectionGeometric && !c.rolloutCorrection?.startsWith('sequence')) {
    yield 'rolloutCorrectionGeometric: needs rolloutCorrection sequence-truncate or sequence-mask';
  }
}

function* runProblems(c: SFTConfig | GRPOConfig): Generator<string> {
  if (c.warmupSteps > 0 && c.warmupRatio > 0) yield 'warmupRatio: cannot be set together with warmupSteps';
  if (c.saveSteps !== null && c.outputDir === null) yield 'saveSteps: needs outputDir';
  if (c.saveTotalLimit !== null && c.saveSteps === null) yield 'saveTotalLimit: needs saveSteps';
}

function describeIssue(issue: z.core.$ZodIssue, schema: z.ZodObject): string[] {
  const path = formatPath(issue.path);
  if (issue.code !== 'unrecognized_keys') {
    return [`${path || 'the whole'}: ${issue.message.replace(/^Invalid input: /, '')}${describeInput(issue)}`];
  }
  const known = knownKeys(schema, issue.path);
  return issue.keys.map((key) => {
    const near = nearest(key, known);
    const name = path === '' ? key : `${path}.${key}`;
    return `${name}: unknown option${near ? `; did you mean ${near}?` : ''}`;
  });
}

/** The options of the object at a path of the schema; none where the path goes through anything but objects. */
function knownKeys(schema: z.core.$ZodType, path: readonly PropertyKey[]): string[] {
  const { shape } = unwrap(schema).type as Partial<z.ZodObject>;
  const [first, ...rest] = path;
  if (first === undefined) return Object.keys(shape ?? {});
  const inner = shape?.[String(first)];
  return inner ? knownKeys(inner, rest) : [];
}

function describeInput(issue: z.core.$ZodIssue): string {
  return issue.input === undefined || typeof issue.input === 'object' ? '' : `, got ${JSON.stringify(issue.input)}`;
}

function formatPath(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, key) => {
    if (typeof key === 'number') return `${text}[${key}]`;
    return text === '' ? String(key) : `${text}.${String(key)}`;
  }, '');
}

/** The known name that a person may have meant: the nearest, when at most a third of its letters differ. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  const plain = (text: string) => text.toLowerCase().replace(/[-_]/g, '');
  let best: string | undefined;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const candidate of known) {
    const distance = editDistance(plain(name), plain(candidate));
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best !== undefined && bestDistance <= Math.ceil(best.length / 3) ? best : undefined;
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}

function describeOption(name: string, field: z.ZodType): ConfigOption {
  const { type, nullable, fallback } = unwrap(field);
  return { name, description: field.description ?? '', ...describeType(type), nullable, default: fallback };
}

/** What stands inside of default, null and absence. */
function unwrap(field: z.core.$ZodType): { type: z.core.$ZodType; nullable: boolean; fallback: unknown } {
  let type = field;
  let nullable = false;
  let fallback: unknown;
  for (;;) {
    const { def } = type._zod as unknown as {
      def: { type: string; innerType?: z.core.$ZodType; defaultValue?: unknown };
    };
    if (!['default', 'prefault', 'nullable', 'optional'].includes(def.type)) return { type, nullable, fallback };
    if (def.type === 'default' || def.type === 'prefault') fallback = def.defaultValue;
    if (def.type === 'nullable') nullable = true;
    type = def.innerType!;
  }
}

function describeType(type: z.core.$ZodType): Pick<ConfigOption, 'type' | 'items' | 'choices'> {
  const def = type._zod.def as unknown as {
    type: string;
    entries?: Record<string, string>;
    element?: z.core.$ZodType;
    format?: string;
  };
  switch (def.type) {
    case 'number':
      return { type: isInteger(def) ? 'integer' : 'number' };
    case 'boolean':
      return { type: 'boolean' };
    case 'enum':
      return { type: 'string', choices: Object.values(def.entries!) };
    case 'array':
      return { type: 'list', items: describeType(def.element!).type === 'string' ? 'string' : 'number' };
    case 'object':
      return { type: 'object' };
    default:
      return { type: 'string' };
  }
}

function isInteger(def: { format?: string }): boolean {
  return def.format === 'safeint' || def.format === 'int32';
}
