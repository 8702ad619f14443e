import type { TrackedCompletion } from '../tracker.js';

/** The rows of one step and split, which are kept or dropped together: a group is compared within itself. */
interface Block {
  key: string;
  index: number;
  rows: TrackedCompletion[];
  characters: number;
}

const maxTextLength = 20_000;

/**
 * A bounded, evenly spread sample of a run's completions, fed in one pass. When it is full, every second block of those
 * it holds goes; the newest block always stays.
 */
export class CompletionSample {
  readonly #maxRows: number;
  readonly #maxCharacters: number;
  #blocks: Block[] = [];
  #stride = 1;
  #nextIndex = 0;
  #total = 0;
  #cutTexts = 0;

  constructor(limits: { rows?: number; characters?: number } = {}) {
    this.#maxRows = limits.rows ?? 10_000;
    this.#maxCharacters = limits.characters ?? 8_000_000;
  }

  add(row: TrackedCompletion): void {
    this.#total++;
    const key = `${row.split} ${row.step}`;
    let block = this.#blocks.at(-1);
    if (block?.key !== key) {
      block = { key, index: this.#nextIndex++, rows: [], characters: 0 };
      this.#blocks = this.#blocks.filter((kept) => kept.index % this.#stride === 0);
      this.#blocks.push(block);
    }
    if (block.rows.length >= this.#maxRows || block.characters >= this.#maxCharacters) return;
    const kept = { ...row, prompt: this.#cut(row.prompt), completion: this.#cut(row.completion) };
    block.rows.push(kept);
    block.characters += kept.prompt.length + kept.completion.length;
    while (this.#full() && this.#blocks.length > 1) this.#thin();
  }

  result(): { rows: TrackedCompletion[]; note: string | null } {
    const rows = this.#blocks.flatMap((block) => block.rows);
    const notes: string[] = [];
    if (rows.length < this.#total) {
      const shown = `${rows.length.toLocaleString('en')} of ${this.#total.toLocaleString('en')} completions`;
      notes.push(`This page holds ${shown}, from steps spread evenly over the run; completions.jsonl has all.`);
    }
    if (this.#cutTexts > 0) notes.push(`Texts are cut after ${maxTextLength.toLocaleString('en')} characters.`);
    return { rows, note: notes.join(' ') || null };
  }

  #full(): boolean {
    let rows = 0;
    let characters = 0;
    for (const block of this.#blocks) {
      rows += block.rows.length;
      characters += block.characters;
    }
    return rows > this.#maxRows || characters > this.#maxCharacters;
  }

  #thin(): void {
    this.#stride *= 2;
    const newest = this.#blocks.at(-1)!;
    this.#blocks = this.#blocks.filter((block) => block.index % this.#stride === 0 || block === newest);
  }

  #cut(text: string): string {
    if (text.length <= maxTextLength) return text;
    this.#cutTexts++;
    return `${text.slice(0, maxTextLength)} …`;
  }
}
