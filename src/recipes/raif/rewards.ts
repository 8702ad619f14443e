import type { ChatMessage } from '../../data/prompts.js';
import { UnsupportedError } from '../../errors.js';
import { checkInstructions, type Instruction } from '../../rewards/ifeval/index.js';
import { readInstructions } from '../../rewards/ifeval-reward.js';
import { answersMatch } from '../../rewards/maths.js';
import { repetitionPenalty } from '../../rewards/repetition.js';
import type { Reward, RewardSample } from '../../rewards/reward.js';
import type { RaifRecord } from './data.js';
import { type Reply, readReply, thinks } from './reply.js';
import { conversationOf, type ReadPrompt, readPrompt } from './templates.js';

/**
 * Answers yes/no questions about the last message of a conversation, one verdict a question. null: no verdict, which is
 * not a no.
 */
export type RaifJudge = (
  conversation: readonly ChatMessage[],
  questions: readonly string[],
  signal: AbortSignal,
) => Promise<(boolean | null)[]>;

export interface RaifRewardOptions {
  /** For rows with `scoring_questions`. */
  judge?: RaifJudge;
  /** Weight of the penalty for repeated 8-grams of tokens. Default 0: none. */
  repetition?: number;
  /** Milliseconds that the answers of a batch may take to be judged. Default 10 minutes. */
  timeoutMs?: number;
  /** Score as the released code does, for comparisons: see `docs/raif.md`. Default false. */
  released?: boolean;
}

/** What is known of a reply; null where a part does not apply, NaN where the judge gave no verdict. */
interface Verdict {
  answer: number;
  format: number;
  accuracy: number;
  met: number | null;
}

const scores = { right: 2, wrong: -1.5, none: -2 } as const;

/**
 * RAIF's rewards, each under its own name: `answer` and `format`, whose sum is the reward; `accuracy` and
 * `constraints_met`, which have weight 0 and are for logs and for `contrast`; and `repetition` where it has a weight.
 *
 * | Row | answer | format |
 * |---|---|---|
 * | maths, right / wrong / nothing boxed in the answer | 2 / -1.5 / -2 | 1 or -1 |
 * | instructions, all / a share f / none met | 2 / f / -2 | 1 |
 * | instructions, bad format, no answer or no thinking where it is asked for | -2 | 1 or -1 |
 */
export function raifRewards(options: RaifRewardOptions = {}): Reward[] {
  const { repetition = 0, timeoutMs = 600_000 } = options;
  const known = new WeakMap<readonly RewardSample[], Promise<Verdict[]>>();
  const verdictsOf = (batch: readonly RewardSample[]) => {
    const verdicts = known.get(batch) ?? judgeBatch(batch, options, AbortSignal.timeout(timeoutMs));
    known.set(batch, verdicts);
    return verdicts;
  };
  const part = (name: string, key: keyof Verdict, weight: number): Reward => ({
    name,
    weight,
    timeoutMs,
    score: async (batch) => (await verdictsOf(batch)).map((verdict) => verdict[key]),
  });
  return [
    part('answer', 'answer', 1),
    part('format', 'format', 1),
    part('accuracy', 'accuracy', 0),
    part('constraints_met', 'met', 0),
    ...(repetition === 0 ? [] : [repetitionPenalty({ weight: repetition })]),
  ];
}

async function judgeBatch(
  batch: readonly RewardSample[],
  options: RaifRewardOptions,
  signal: AbortSignal,
): Promise<Verdict[]> {
  return Promise.all(batch.map((sample) => judgeReply(sample, options, signal)));
}

async function judgeReply(sample: RewardSample, options: RaifRewardOptions, signal: AbortSignal): Promise<Verdict> {
  const prompt = readPrompt(sample.prompt);
  if (!prompt) throw new UnsupportedError('A prompt in none of the five templates', 'the RAIF rewards');
  const record = sample.record as RaifRecord;
  const reply = readReply(sample, prompt);
  const { freeForm, kind } = record;
  const format = reply.wellFormed || freeForm ? 1 : -1;
  if (kind === 'maths') return { ...judgeMaths(reply, record, options), format, met: null };
  const failed = { answer: scores.none, accuracy: 0, format, met: null };
  // A reply that was not allowed to think is judged by its answer alone.
  const thought = thinks(reply) || freeForm || (reply.direct && !options.released);
  if (format < 0 || !thought || reply.answer === '') return failed;
  // The released checker got the label where the reply belongs, which never has the format.
  if (kind === 'ifeval' && options.released) return failed;
  const verdicts =
    kind === 'ifeval'
      ? checkInstructions(instructionsOf(record), sample.prompt, reply.answer)
      : await askJudge(sample.prompt, prompt, reply.answer, record, options, signal);
  return { ...combine(verdicts), format };
}

/** 2 for all, -2 for none, else the share. */
function combine(verdicts: readonly (boolean | null)[]): Omit<Verdict, 'format'> {
  if (verdicts.includes(null)) return { answer: Number.NaN, accuracy: Number.NaN, met: Number.NaN };
  const met = verdicts.filter(Boolean).length;
  const share = met / verdicts.length;
  const answer = share === 1 ? scores.right : share === 0 ? scores.none : share;
  return { answer, accuracy: share, met };
}

function judgeMaths(
  { text, answer }: Reply,
  { answer: reference }: RaifRecord,
  { released }: RaifRewardOptions,
): Pick<Verdict, 'answer' | 'accuracy'> {
  // The released code looks through the thinking as well.
  const place = released ? text.replace(/<\/?(?:think|answer)>/g, ' ') : answer;
  const boxed = place.includes('boxed');
  const right = answersMatch(place, reference!) && (boxed || released === true);
  const accuracy = right ? 1 : 0;
  if (!boxed) return { answer: scores.none, accuracy };
  return { answer: right ? scores.right : scores.wrong, accuracy };
}

async function askJudge(
  prompt: string,
  read: ReadPrompt,
  answer: string,
  { scoring_questions: questions }: RaifRecord,
  { judge }: RaifRewardOptions,
  signal: AbortSignal,
): Promise<(boolean | null)[]> {
  if (!judge) throw new UnsupportedError('A row with scoring_questions', 'rewards without a judge');
  return judge([...conversationOf(prompt, read), { role: 'assistant', content: answer }], questions!, signal);
}

const knownInstructions = new WeakMap<RaifRecord, readonly Instruction[]>();

function instructionsOf(record: RaifRecord): readonly Instruction[] {
  const instructions = knownInstructions.get(record) ?? readInstructions(record);
  knownInstructions.set(record, instructions);
  return instructions;
}
