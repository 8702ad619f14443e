export {
  type CheckOptions,
  checkInstructions,
  type InstructionSummary,
  looseVariants,
  summariseVerdicts,
  validateInstructions,
} from './check.js';
export { LANGUAGE_CODES } from './detect-language.js';
export { InstructionError } from './parameters.js';
export { INSTRUCTION_IDS, type Instruction } from './registry.js';
