import type { PromptRecord } from '../data/prompts.js';
import { InvalidArgumentError } from '../errors.js';
import { type AnswerPartOptions, answerPart } from './answer-part.js';
import { checkInstructions, type Instruction, validateInstructions } from './ifeval/index.js';
import type { Reward, RewardSample } from './reward.js';

export interface IFEvalRewardOptions extends AnswerPartOptions {
  /** `fraction`: the share of instructions that the answer follows; `all`: 1 when it follows all, else 0. Default `fraction`. */
  level?: 'fraction' | 'all';
  /** An instruction counts as followed when one of eight variants of the answer follows it. Default false: strict. */
  loose?: boolean;
  weight?: number;
}

/**
 * How well the answer follows the verifiable instructions of its row: `instruction_id_list` and `kwargs`, as IFEval has
 * them. A completion without an answer gets 0. A row without instructions is one that this reward does not apply to; a row
 * whose instructions are wrong is refused before training begins.
 */
export function ifevalReward({ level = 'fraction', loose = false, weight, ...part }: IFEvalRewardOptions = {}): Reward {
  if (level !== 'fraction' && level !== 'all') throw new InvalidArgumentError('level', 'fraction or all', level);
  const known = new WeakMap<PromptRecord, readonly Instruction[]>();
  const instructionsOf = (record: PromptRecord) => {
    const instructions = known.get(record) ?? readInstructions(record);
    known.set(record, instructions);
    return instructions;
  };
  const score = ({ record, prompt, completion }: RewardSample): number | null => {
    const instructions = instructionsOf(record);
    if (instructions.length === 0) return null;
    const verdicts = checkInstructions(instructions, prompt, answerPart(completion, part) ?? '', { loose });
    const followed = verdicts.filter(Boolean).length / verdicts.length;
    return level === 'all' ? Math.floor(followed) : followed;
  };
  return { name: 'ifeval', weight, check: instructionsOf, score: (batch) => batch.map(score) };
}

/** The instructions of a row; none when it has no `instruction_id_list`. Throws on instructions that cannot be checked. */
export function readInstructions(record: Readonly<Record<string, unknown>>): readonly Instruction[] {
  if (record.instruction_id_list === undefined) return [];
  return validateInstructions(record.instruction_id_list as string[], record.kwargs as object[]);
}
