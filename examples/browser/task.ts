/** The task of the page: write characters of the kind that the prompt names. */
import { type PromptRecord, type Reward, Tokenizer } from 'grpo-native/browser';

export const completionLength = 8;

const kinds = { 'vowels:': 'aeiou', 'consonants:': 'bcdfghjk', 'digits:': '0123456' };

interface KindRecord extends PromptRecord {
  prompt: string;
  characters: string;
}

export const dataset: KindRecord[] = Object.entries(kinds).map(([prompt, characters]) => ({ prompt, characters }));

/** Prompts are special tokens: a completion that repeats one shows no character for it, and earns nothing. */
export function createTokenizer(): Tokenizer {
  return Tokenizer.fromCharacters(Object.values(kinds).join(''), { specialTokens: Object.keys(kinds) });
}

/** Share of the tokens, from 0 to 1, that are characters of the prompt's kind. */
export const ruleReward: Reward = {
  name: 'rule',
  score: (batch) =>
    batch.map(({ completion, record }) => {
      const { characters } = record as KindRecord;
      return [...completion].filter((character) => characters.includes(character)).length / completionLength;
    }),
};

/** Share of neighbours, from 0 to 1, that differ: without it one character again and again would do. */
export const varietyReward: Reward = {
  name: 'variety',
  weight: 0.5,
  score: (batch) =>
    batch.map(({ completion }) => {
      const differing = [...completion].filter((character, i, all) => i > 0 && character !== all[i - 1]);
      return differing.length / (completionLength - 1);
    }),
};
