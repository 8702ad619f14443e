import { letterCase } from './case.js';
import { combination } from './combination.js';
import { content } from './content.js';
import { format } from './format.js';
import type { Check, Definition } from './instruction.js';
import { keywords } from './keywords.js';
import { language } from './language.js';
import { length } from './length.js';
import { InstructionError, Parameters } from './parameters.js';
import { punctuation } from './punctuation.js';
import { startend } from './startend.js';

const DEFINITIONS = new Map<string, Definition>(
  [keywords, language, length, content, format, combination, startend, letterCase, punctuation].flatMap(Object.entries),
);

/** The 25 instructions of IFEval and `detectable_format:xml_format`. */
export const INSTRUCTION_IDS: readonly string[] = [...DEFINITIONS.keys()].sort();

/** An instruction whose parameters are known to be good. */
export interface Instruction {
  readonly id: string;
  readonly check: Check;
}

export function createInstruction(id: string, kwargs: object): Instruction {
  const definition = DEFINITIONS.get(id);
  if (!definition) throw new InstructionError(id, undefined, `one of ${INSTRUCTION_IDS.join(', ')}`, id);
  if (typeof kwargs !== 'object' || kwargs === null || Array.isArray(kwargs)) {
    throw new InstructionError(id, 'kwargs', 'an object', kwargs);
  }
  const parameters = new Parameters(id, kwargs);
  const check = definition(parameters);
  parameters.finish();
  return { id, check };
}
