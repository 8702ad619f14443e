import type { PromptRecord } from '../../data/prompts.js';
import { permutation, randomSource } from '../../data/random.js';
import type { DemonstrationRecord } from '../../data/records.js';
import { formatReward, taggedText } from '../../rewards/format.js';
import type { Reward } from '../../rewards/reward.js';
import { Tokenizer } from '../../text/tokenizer.js';

/**
 * The task of the quickstart: sums of two numbers of two digits, worked out digit by digit, as
 * `<think>7+8=15 2+3+1=6</think><answer>65</answer>` for `27+38=`.
 *
 * The demonstrations come from a flawed teacher. It forgets the carry more often than not, so that the likeliest
 * continuation of a sum with a carry is wrong: a model that imitates it perfectly fails at these sums when it decodes
 * greedily, however long it is cloned. It also breaks the form at times and slips at single digits.
 */
export const teacher = {
  /** Share of the sums with a carry in which it is forgotten. */
  forgottenCarries: 0.65,
  /** Share of demonstrations with a wrong digit. */
  slips: 0.05,
  /** Share of demonstrations in which tags are missing. */
  brokenForms: 0.3,
} as const;

export interface SumRecord extends PromptRecord {
  prompt: string;
  /** The right answer. */
  answer: string;
}

export interface QuickstartData {
  demonstrations: DemonstrationRecord[];
  train: SumRecord[];
  /** Shares no prompt with the other two. */
  heldOut: SumRecord[];
}

const heldOutCount = 256;
const demonstrationCount = 16_000;

export function createData(seed: number): QuickstartData {
  const sums: [number, number][] = [];
  for (let a = 10; a < 100; a++) for (let b = 10; b < 100; b++) sums.push([a, b]);
  const shuffled = permutation(sums.length, randomSource(seed, 0)).map((i) => sums[i]!);
  const next = randomSource(seed, 1);
  const uniform = () => next() / 2 ** 32;
  const heldOut = shuffled.slice(0, heldOutCount).map(record);
  const trained = shuffled.slice(heldOutCount);
  const demonstrations = Array.from({ length: demonstrationCount }, (_, i) => {
    const [a, b] = trained[i % trained.length]!;
    return { prompt: `${a}+${b}=`, completion: demonstrate(a, b, uniform) };
  });
  return { demonstrations, train: trained.map(record), heldOut };
}

function record([a, b]: [number, number]): SumRecord {
  return { prompt: `${a}+${b}=`, answer: String(a + b) };
}

/** What the teacher writes for a + b; `uniform` gives numbers in [0, 1). */
export function demonstrate(a: number, b: number, uniform: () => number): string {
  const [aTens, aUnits, bTens, bUnits] = [Math.floor(a / 10), a % 10, Math.floor(b / 10), b % 10];
  const slip = uniform() < teacher.slips;
  const units = slip ? Math.floor(uniform() * 19) : aUnits + bUnits;
  const carry = aUnits + bUnits > 9 && uniform() >= teacher.forgottenCarries;
  const tens = aTens + bTens + (carry ? 1 : 0);
  const think = `${aUnits}+${bUnits}=${units} ${aTens}+${bTens}${carry ? '+1' : ''}=${tens}`;
  const answer = `${tens}${units % 10}`;
  const forms = [
    `<think>${think}<answer>${answer}</answer>`,
    `<think>${think}</think>${answer}`,
    `<answer>${answer}</answer>`,
    `<think>${think}</think><answer>${answer}`,
  ];
  if (uniform() < teacher.brokenForms) return forms[Math.floor(uniform() * forms.length)]!;
  return `<think>${think}</think><answer>${answer}</answer>`;
}

export function createTokenizer(): Tokenizer {
  return Tokenizer.fromCharacters('0123456789+= ', { words: ['<think>', '</think>', '<answer>', '</answer>'] });
}

/** 1 when what stands in the answer tags is the sum. */
export const correctReward: Reward = {
  name: 'correct',
  score: (batch) => batch.map(({ completion, record }) => (taggedText(completion, 'answer') === record.answer ? 1 : 0)),
};

export function createRewards(): Reward[] {
  return [correctReward, formatReward({ weight: 0.5 })];
}
