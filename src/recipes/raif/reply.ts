import { taggedText } from '../../rewards/format.js';
import type { RewardSample } from '../../rewards/reward.js';
import { answersInTags, type ReadPrompt } from './templates.js';

/** A reply as the rewards see it. */
export interface Reply {
  /** From its `<think>` on, which may stand in the prompt. */
  text: string;
  /** Each tag stands exactly once, in order. */
  wellFormed: boolean;
  /** The prompt closed the thinking, so that there is none to be judged. */
  direct: boolean;
  thinking: string;
  /** Empty when the reply has none. */
  answer: string;
}

/** What may be left of a reply's end when special tokens are decoded. */
const endMarks = ['</s>', '<|im_end|>', '<|endoftext|>', '<｜end▁of▁sentence｜>', '<|eot_id|>'];

/** Stands between the think tags of the prompts' own description of the format. */
const placeholder = 'reasoning process here';

export function readReply({ prompt, completion }: RewardSample, { family, replyStart }: ReadPrompt): Reply {
  const text = endMarks.reduce(
    (kept, mark) => (kept.includes(mark) ? kept.slice(0, kept.indexOf(mark)) : kept).trim(),
    (prompt.slice(replyStart) + completion).trimStart(),
  );
  const inTags = answersInTags(family);
  const tags = ['<think>', '</think>', ...(inTags ? ['<answer>', '</answer>'] : [])];
  const end = text.lastIndexOf('</think>');
  const start = text.lastIndexOf('<think>', end < 0 ? undefined : end);
  const afterThinking = end < 0 ? text.replace('<think>', '') : text.slice(end + '</think>'.length);
  return {
    text,
    wellFormed: inOrder(text, tags),
    direct: prompt.endsWith('</think>\n'),
    thinking: start >= 0 && end > start ? text.slice(start + '<think>'.length, end).trim() : '',
    answer: ((inTags ? taggedText(text, 'answer') : undefined) ?? afterThinking).trim(),
  };
}

/** Whether a reply shows any thinking of its own. */
export function thinks({ thinking }: Reply): boolean {
  return thinking !== '' && thinking.toLowerCase() !== placeholder;
}

function inOrder(text: string, tags: readonly string[]): boolean {
  const positions = tags.map((tag) => text.indexOf(tag));
  const once = tags.every((tag, i) => positions[i]! >= 0 && text.indexOf(tag, positions[i]! + 1) < 0);
  return once && positions.every((position, i) => i === 0 || position > positions[i - 1]!);
}
