import { Template } from '@huggingface/jinja';
import type { ChatMessage } from '../data/prompts.js';
import { FileFormatError, InvalidArgumentError } from '../errors.js';

export interface ChatTemplateOptions {
  /** Ends the text where the assistant's reply begins. Default true. */
  addGenerationPrompt?: boolean;
  /** Further variables of the template, such as `enable_thinking`. */
  variables?: Readonly<Record<string, unknown>>;
}

/** A Jinja template that turns messages into the text a model was trained on. */
export class ChatTemplate {
  readonly source: string;
  readonly #template: Template;
  readonly #file: string;

  /** `file` names the origin in errors. */
  constructor(source: string, file = 'chat template') {
    this.source = source;
    this.#file = file;
    try {
      this.#template = new Template(source);
    } catch (error) {
      throw new FileFormatError(file, `not a Jinja template: ${(error as Error).message}`, undefined, { cause: error });
    }
  }

  /** `specialTokens`: `bos_token`, `eos_token` and such, as templates name them. */
  render(
    messages: readonly ChatMessage[],
    specialTokens: Readonly<Record<string, string>>,
    { addGenerationPrompt = true, variables = {} }: ChatTemplateOptions = {},
  ): string {
    messages.forEach(({ role, content }, i) => {
      if (typeof role !== 'string') throw new InvalidArgumentError(`messages[${i}].role`, 'a string', role);
      if (typeof content !== 'string') throw new InvalidArgumentError(`messages[${i}].content`, 'a string', content);
    });
    try {
      return this.#template.render({
        ...specialTokens,
        ...variables,
        messages,
        add_generation_prompt: addGenerationPrompt,
      });
    } catch (error) {
      throw new FileFormatError(this.#file, (error as Error).message, undefined, { cause: error });
    }
  }
}
