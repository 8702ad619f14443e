/** A message of a chat. */
export interface ChatMessage {
  role: string;
  content: string;
}

/**
 * A row of a data set: `prompt` (text, used as it is) or `messages` (rendered by the model's chat template), and any
 * fields that the rewards want.
 */
export interface PromptRecord {
  prompt?: string;
  messages?: ChatMessage[];
  /** false: the text of `prompt` has its special tokens, such as that of the beginning, in it. Default true. */
  addSpecialTokens?: boolean;
  [field: string]: unknown;
}
