import type { Reward } from './reward.js';

export interface FormatRewardOptions {
  /** Tags that must stand in this order, each once. Default `think`, `answer`. */
  tags?: readonly [string, ...string[]];
  /** The prompt already ends with the first tag opened, so that the completion starts inside it. Default false. */
  firstTagOpen?: boolean;
  /** Where the form is not met give k / (n + 1) instead of 0: k of its n marks stand exactly once. Default false. */
  partial?: boolean;
  weight?: number;
}

/**
 * 1 when the completion is `<think>…</think><answer>…</answer>` and nothing else but white space between and around, 0
 * otherwise.
 */
export function formatReward(options: FormatRewardOptions = {}): Reward {
  const { tags = ['think', 'answer'], firstTagOpen = false, partial = false, weight } = options;
  const marks = tags.flatMap((tag) => [`<${tag}>`, `</${tag}>`]).slice(firstTagOpen ? 1 : 0);
  const score = (completion: string) => {
    const again = firstTagOpen && completion.includes(`<${tags[0]}>`);
    if (!again && hasForm(completion, marks, firstTagOpen)) return 1;
    return partial ? marks.filter((mark) => occursOnce(completion, mark)).length / (marks.length + 1) : 0;
  };
  return { name: 'format', weight, score: (batch) => batch.map((sample) => score(sample.completion)) };
}

/** Marks open and close in turn: after a closing one only white space may come, up to the next opening one. */
function hasForm(text: string, marks: readonly string[], inside: boolean): boolean {
  let position = 0;
  let open = inside;
  for (const mark of marks) {
    if (!occursOnce(text, mark)) return false;
    const at = text.indexOf(mark);
    if (at < position || (!open && text.slice(position, at).trim() !== '')) return false;
    position = at + mark.length;
    open = !open;
  }
  return text.slice(position).trim() === '';
}

function occursOnce(text: string, mark: string): boolean {
  const first = text.indexOf(mark);
  return first >= 0 && text.indexOf(mark, first + mark.length) < 0;
}

/** What stands between `<tag>` and `</tag>`, the last such pair; undefined without one. */
export function taggedText(text: string, tag: string): string | undefined {
  const end = text.lastIndexOf(`</${tag}>`);
  if (end < 0) return undefined;
  const start = text.lastIndexOf(`<${tag}>`, end);
  return start < 0 ? undefined : text.slice(start + tag.length + 2, end).trim();
}
