import { taggedText } from './format.js';

/** Which part of a completion is its answer. Default: all of it. */
export interface AnswerPartOptions {
  /** Only what stands between `<tag>` and `</tag>`, the last such pair. */
  tag?: string;
  /** Only what comes after the last `</think>`. Default false. */
  afterThink?: boolean;
}

/**
 * The answer of a completion; undefined when it has none: the tag is missing, or the text opens `<think>` and never closes
 * it. A text without any think marks is all answer.
 */
export function answerPart(text: string, { tag, afterThink = false }: AnswerPartOptions = {}): string | undefined {
  const answer = afterThink ? withoutThinking(text) : text;
  return tag === undefined || answer === undefined ? answer : taggedText(answer, tag);
}

/** The text after its last `</think>`, trimmed. */
export function withoutThinking(text: string): string | undefined {
  const end = text.lastIndexOf('</think>');
  if (end >= 0) return text.slice(end + '</think>'.length).trim();
  return text.includes('<think>') ? undefined : text;
}

/** The text before its last `</think>`, without the opening mark; undefined when the text has no think marks. */
export function thinkingOf(text: string): string | undefined {
  const start = text.indexOf('<think>');
  const end = text.lastIndexOf('</think>');
  if (start < 0 && end < 0) return undefined;
  const from = start < 0 ? 0 : start + '<think>'.length;
  return text.slice(from, end < from ? undefined : end).trim();
}
