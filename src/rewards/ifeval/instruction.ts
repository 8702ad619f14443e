import type { Parameters } from './parameters.js';

/** Whether a response follows an instruction. Never called with a blank response. */
export type Check = (response: string) => boolean;

/** Reads the parameters of an instruction and gives its check. Throws an InstructionError on parameters that are wrong. */
export type Definition = (parameters: Parameters) => Check;

/** The instructions of one group, by id. */
export type Family = Record<string, Definition>;
