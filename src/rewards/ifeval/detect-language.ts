import { IDEOGRAPHS, PROFILES } from './language-profiles.js';
import { countMatches, isUpper } from './python-text.js';

// The original asks langdetect, a naive Bayes classifier over the n-grams of a text (Nakatani Shuyo, "Language Detection
// Library", 2010). Its verdicts on short or shouted English are far from those of other libraries, so this is the same
// classifier on the same counts. It differs in one thing: langdetect multiplies the probabilities of n-grams drawn at random
// until one language is certain, seven times over; this multiplies those of all n-grams, so that equal texts get equal verdicts.

/** Codes as langdetect has them: ISO 639-1, and two for Chinese. */
export const LANGUAGE_CODES: readonly string[] = Object.keys(PROFILES);

const MAX_CHARACTERS = 10_000;
/** Probability of an n-gram that a profile does not have. */
const UNSEEN = 0.5 / 10_000;

/** The most likely language of a text; undefined where no n-gram of it is known. */
export function detectLanguage(text: string): string | undefined {
  const { profile } = model();
  const scores = new Float64Array(LANGUAGE_CODES.length);
  const counts = new Map<string, number>();
  for (const gram of ngrams(clean(text))) if (profile.has(gram)) counts.set(gram, (counts.get(gram) ?? 0) + 1);
  if (counts.size === 0) return undefined;
  for (const [gram, count] of counts) {
    // What is common to all languages cancels: only those that know the n-gram move.
    const { languages, weights } = profile.get(gram)!;
    for (let i = 0; i < languages.length; i++) scores[languages[i]!]! += count * weights[i]!;
  }
  return LANGUAGE_CODES[scores.indexOf(Math.max(...scores))];
}

const LINK = /https?:\/\/[-_.?&~;+=/#0-9A-Za-z]{1,2076}/g;
const MAIL = /[-_.0-9A-Za-z]{1,64}@[-_0-9A-Za-z]{1,255}[-_.0-9A-Za-z]{1,255}/g;
/** From A to z, the six marks between the cases included. */
const LATIN = /[A-z]/g;
const OTHER_SCRIPT = /[\u0300-\u1dff\u1f00-\u{10ffff}]/gu;

/** Leaves out addresses, and the Latin words in a text that is mostly of another script. */
function clean(text: string): string {
  const whole = text.replace(LINK, ' ').replace(MAIL, ' ').normalize('NFC').slice(0, MAX_CHARACTERS);
  return countMatches(whole, LATIN) * 2 < countMatches(whole, OTHER_SCRIPT) ? whole.replace(LATIN, '') : whole;
}

/** The n-grams of one, two and three characters, word by word. Within a word in capitals only its first letter and its end count. */
function* ngrams(text: string): Generator<string> {
  let window = [' '];
  let lastIsUpper = false;
  let capitals = false;
  for (const raw of text) {
    const { character, upper } = normalise(raw);
    if (window.at(-1) === ' ') {
      capitals = false;
      if (character === ' ') continue;
      window = [' '];
    } else if (window.length === 3) window.shift();
    window.push(character);
    capitals = upper && (capitals || lastIsUpper);
    lastIsUpper = upper;
    if (capitals) continue;
    let gram = '';
    for (let i = window.length - 1; i >= 0; i--) {
      gram = window[i] + gram;
      if (gram !== ' ') yield gram;
    }
  }
}

interface Normalised {
  character: string;
  upper: boolean;
}

const normalised = new Map<string, Normalised>();

/** Remembers what it found: the same few characters come again and again. */
function normalise(raw: string): Normalised {
  let found = normalised.get(raw);
  if (!found) {
    const character = representative(raw);
    found = { character, upper: isUpper(character) };
    normalised.set(raw, found);
  }
  return found;
}

/** Maps characters that the profiles do not tell apart to one of them. */
function representative(character: string): string {
  const code = character.codePointAt(0)!;
  if (code < 0x80) return /[A-Za-z]/.test(character) ? character : ' ';
  if (code < 0x100) return '\xa0\xab\xb0\xbb'.includes(character) ? ' ' : character;
  if (code === 0x219) return 'ş';
  if (code === 0x21b) return 'ţ';
  if (code === 0x6cc) return 'ي';
  if (code >= 0x1ea0 && code <= 0x1eff) return 'ể';
  if (code >= 0x2000 && code <= 0x206f) return ' ';
  if (code >= 0x3040 && code <= 0x309f) return 'あ';
  if (code >= 0x30a0 && code <= 0x30ff) return 'ア';
  if ((code >= 0x3100 && code <= 0x312f) || (code >= 0x31a0 && code <= 0x31bf)) return 'ㄅ';
  if (code >= 0xac00 && code <= 0xd7af) return '가';
  return model().ideographs.get(character) ?? character;
}

interface Model {
  /** What an n-gram says: the languages that know it, and how much each of them gains by it. */
  profile: Map<string, { languages: number[]; weights: number[] }>;
  ideographs: Map<string, string>;
}

let loaded: Model | undefined;

/** Unpacked once, on first use: it takes some 50 ms. */
function model(): Model {
  if (loaded) return loaded;
  const profile: Model['profile'] = new Map();
  for (const [language, code] of LANGUAGE_CODES.entries()) {
    const [runs, ...grams] = PROFILES[code]!;
    for (const [i, run] of runs.split(';').entries()) {
      const characters = [...grams[i]!];
      let position = 0;
      let level = 0;
      for (const part of run.split(',')) {
        const [difference, length = 1] = part.split('*').map(Number);
        level += difference!;
        for (let k = 0; k < length; k++, position += i + 1) {
          const gram = characters.slice(position, position + i + 1).join('');
          const known = profile.get(gram) ?? { languages: [], weights: [] };
          known.languages.push(language);
          known.weights.push(Math.log(1 + 1.05 ** -level / UNSEEN));
          profile.set(gram, known);
        }
      }
    }
  }
  const ideographs = new Map(IDEOGRAPHS.flatMap((group) => [...group].map((one) => [one, [...group][0]!] as const)));
  loaded = { profile, ideographs };
  return loaded;
}
