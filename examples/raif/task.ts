import {
  type DemonstrationRecord,
  type PromptRecord,
  parseRaifPrompts,
  type RaifRecord,
  renderPrompt,
  Tokenizer,
  withoutThinkingRoom,
} from 'grpo-native';

/**
 * A task for a tiny model: say some words, under rules that IFEval's checkers verify. It has its own tokenizer, in which
 * most words are one token.
 */
const nouns = ' sun| sea| tree| lake| moon| fire| snow| wind| rock| leaf| bird| fish| road| hill| star| rain'.split(
  '|',
);
const phrases = ['User:', '\nAssistant:', '<think>', '</think>', '<answer>', '</answer>', ' say', ' avoid'];
const rules = [' at least', ' fewer than', ' words', ' no comma'];

export const template = 'base';

export function createTokenizer(): Tokenizer {
  return Tokenizer.fromCharacters('0123456789 ,.\n', { words: [...phrases, ...rules, ...nouns] });
}

/** What a prompt asks for. */
interface Wish {
  wanted: string[];
  avoided: string | null;
  words: number;
  relation: 'at least' | 'less than';
  noComma: boolean;
}

/** Uniform numbers in [0, 1) from a seed (mulberry32). */
export function createRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function drawWish(random: () => number): Wish {
  const order = shuffled(nouns, random);
  const relation = random() < 0.5 ? 'at least' : 'less than';
  return {
    wanted: order.slice(0, 1 + Math.floor(2 * random())),
    avoided: random() < 0.5 ? order[3]! : null,
    words: relation === 'at least' ? 2 + Math.floor(4 * random()) : 4 + Math.floor(3 * random()),
    relation,
    noComma: random() < 0.5,
  };
}

function promptOf({ wanted, avoided, words, relation, noComma }: Wish): string {
  const avoid = avoided === null ? '' : ` avoid${avoided}.`;
  const count = ` ${relation === 'at least' ? 'at least' : 'fewer than'} ${words} words.`;
  const user = ` say${wanted.join('')}.${avoid}${count}${noComma ? ' no comma.' : ''}`;
  return renderPrompt(template, { user });
}

/** A line of RAIF's data. `met`: how many rules a reply without thinking was seen to follow. */
function rowOf(wish: Wish, met?: number): string {
  const checks: [string, object][] = [
    ['keywords:existence', { keywords: wish.wanted.map((word) => word.trim()) }],
    ['length_constraints:number_words', { num_words: wish.words, relation: wish.relation }],
  ];
  if (wish.avoided !== null) checks.push(['keywords:forbidden_words', { forbidden_words: [wish.avoided.trim()] }]);
  if (wish.noComma) checks.push(['punctuation:no_comma', {}]);
  const label = {
    instruction_id_list: checks.map(([id]) => id),
    kwargs: checks.map(([, kwargs]) => kwargs),
    ...(met === undefined ? {} : { 'follow_score_qwen2.5-7B-Instruct': met }),
  };
  return JSON.stringify({ input: promptOf(wish), task: 'ifeval', target: JSON.stringify(label) });
}

/** How a teacher answers: the chance that a rule is followed. */
interface Teacher {
  care: number;
}

/** Thinks by repeating the rules one by one, then answers. */
function answer(wish: Wish, { care }: Teacher, random: () => number): { thinking: string; answer: string } {
  const careful = () => random() < care;
  const wanted = wish.wanted.filter(careful);
  const spare = shuffled(
    nouns.filter((word) => !wish.wanted.includes(word) && (word !== wish.avoided || !careful())),
    random,
  );
  const fits = careful();
  const reach = wish.relation === 'at least' ? wish.words + Math.floor(2 * random()) : wish.words - 1;
  const count = fits ? Math.max(reach, wanted.length) : 1 + Math.floor(7 * random());
  const words = shuffled(
    [...wanted, ...spare.slice(0, Math.max(count - wanted.length, wanted.length === 0 ? 1 : 0))],
    random,
  );
  const separator = wish.noComma && careful() ? '' : ',';
  const rulesAgain = [wish.wanted.join(''), ` ${wish.words}`, wish.avoided ?? '', wish.noComma ? ' no comma' : ''];
  return { thinking: rulesAgain.join('.'), answer: words.join(separator) };
}

export interface TaskData {
  /** Flawed ones with and without thinking, to start from. */
  start: DemonstrationRecord[];
  /** Flawless ones with thinking. */
  experts: DemonstrationRecord[];
  train: Wish[];
  /** Shares no prompt with the others. */
  heldOut: Wish[];
}

export function createTask(
  seed: number,
  sizes: { train: number; heldOut: number; start: number; experts: number },
): TaskData {
  const random = createRandom(seed);
  const wishes = new Map<string, Wish>();
  while (wishes.size < sizes.train + sizes.heldOut) {
    const wish = drawWish(random);
    wishes.set(promptOf(wish), wish);
  }
  const all = [...wishes.values()];
  const train = all.slice(0, sizes.train);
  const demonstrate = (wish: Wish, teacher: Teacher, thinks: boolean): DemonstrationRecord => {
    const { thinking, answer: text } = answer(wish, teacher, random);
    const prompt = `${promptOf(wish)}<think>\n`;
    const reply = `<answer>${text}</answer>`;
    return thinks
      ? { prompt, completion: `${thinking}</think>${reply}` }
      : { prompt: withoutThinkingRoom(prompt), completion: reply };
  };
  return {
    start: Array.from({ length: sizes.start }, (_, i) =>
      demonstrate(train[i % train.length]!, { care: 0.7 }, i % 4 > 0),
    ),
    experts: train.slice(0, sizes.experts).map((wish) => demonstrate(wish, { care: 1 }, true)),
    train,
    heldOut: all.slice(sizes.train),
  };
}

/** The rows as the recipe reads them; `met` has a count for each. */
export function rowsOf(wishes: readonly Wish[], met?: readonly number[]): RaifRecord[] {
  return parseRaifPrompts(wishes.map((wish, i) => rowOf(wish, met?.[i])).join('\n'), 'task.jsonl').records;
}

export function directPrompts(rows: readonly PromptRecord[]): string[] {
  return rows.map(({ prompt }) => withoutThinkingRoom(prompt!));
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const out = [...items];
  for (let i = out.length - 1; i > 0; i--) {
    const j = Math.floor((i + 1) * random());
    [out[i], out[j]] = [out[j]!, out[i]!];
  }
  return out;
}
