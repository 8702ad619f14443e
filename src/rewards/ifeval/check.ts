import { InvalidArgumentError } from '../../errors.js';
import { strip } from './python-text.js';
import { createInstruction, type Instruction } from './registry.js';

/**
 * Reads the instructions of one row of data, `instruction_id_list` and `kwargs`. Call it when the data is loaded: a parameter
 * that is missing, unknown or out of range throws an InstructionError here, and nothing is ever drawn at random.
 */
export function validateInstructions(ids: readonly string[], kwargs: readonly object[]): Instruction[] {
  if (!Array.isArray(ids)) throw new InvalidArgumentError('instruction_id_list', 'a list of instruction ids', ids);
  if (!Array.isArray(kwargs)) throw new InvalidArgumentError('kwargs', 'a list of objects', kwargs);
  if (kwargs.length !== ids.length) {
    throw new InvalidArgumentError('kwargs', `${ids.length} objects, one an instruction,`, kwargs.length);
  }
  return ids.map((id, i) => createInstruction(id, kwargs[i]!));
}

export interface CheckOptions {
  /** Pass when any of the eight variants of the response passes (see `looseVariants`). Default false. */
  loose?: boolean;
}

/**
 * One verdict an instruction. A blank response follows none. `prompt` is what the model was asked: an instruction may refer to
 * it, though none of today's does.
 */
export function checkInstructions(
  instructions: readonly Instruction[],
  _prompt: string,
  response: string,
  { loose = false }: CheckOptions = {},
): boolean[] {
  const variants = (loose ? looseVariants(response) : [response]).filter((variant) => strip(variant) !== '');
  return instructions.map((instruction) => variants.some(instruction.check));
}

/**
 * The response as it is, without its first line, without its last and without both, each of them also without asterisks. So
 * an introduction, a closing remark or Markdown emphasis does not fail a response that is right otherwise.
 */
export function looseVariants(response: string): string[] {
  const lines = response.split('\n');
  const cuts = [lines.slice(1), lines.slice(0, -1), lines.slice(1, -1)].map((cut) => strip(cut.join('\n')));
  const variants = [response, ...cuts];
  return [...variants, ...variants.map((variant) => variant.replaceAll('*', ''))];
}

/** Accuracy over many responses. */
export interface InstructionSummary {
  responses: number;
  instructions: number;
  /** The share of responses that follow all of their instructions; 0 without responses. */
  promptAccuracy: number;
  /** The share of instructions that are followed; 0 without instructions. */
  instructionAccuracy: number;
}

/** Sums up verdicts, one list a response. A response without instructions follows all of them. */
export function summariseVerdicts(verdicts: readonly (readonly boolean[])[]): InstructionSummary {
  const all = verdicts.flat();
  return {
    responses: verdicts.length,
    instructions: all.length,
    promptAccuracy: share(verdicts.map((row) => row.every(Boolean))),
    instructionAccuracy: share(all),
  };
}

function share(values: readonly boolean[]): number {
  return values.length === 0 ? 0 : values.filter(Boolean).length / values.length;
}
