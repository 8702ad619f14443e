import type { PromptRecord } from '../../data/prompts.js';
import { UnsupportedError } from '../../errors.js';
import { checkInstructions, type Instruction } from '../../rewards/ifeval/index.js';
import { readInstructions } from '../../rewards/ifeval-reward.js';
import { type JudgeModel, judgeReward } from '../../rewards/judge.js';
import { answersMatch } from '../../rewards/maths.js';
import { repetitionPenalty } from '../../rewards/repetition.js';
import type { Reward, RewardSample } from '../../rewards/reward.js';
import type { RaifRecord } from './data.js';
import { type Reply, readReply, thinks } from './reply.js';
import { conversationOf, readPrompt } from './templates.js';

export interface RaifRewardOptions {
  /** Answers the `scoring_questions` of rows that have some. */
  judge?: JudgeModel;
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
  const judge = options.judge ? questionReward(options.judge, timeoutMs) : null;
  const known = new WeakMap<readonly RewardSample[], Promise<Verdict[]>>();
  const verdictsOf = (batch: readonly RewardSample[]) => {
    const verdicts = known.get(batch) ?? judgeBatch(batch, judge, options);
    known.set(batch, verdicts);
    return verdicts;
  };
  const part = (name: string, key: keyof Verdict, weight: number): Reward => ({
    name,
    weight,
    // The judge keeps the time limit, which spares what needs no judge and what was judged before it.
    timeoutMs: Number.POSITIVE_INFINITY,
    score: async (batch) => (await verdictsOf(batch)).map((verdict) => verdict[key]),
  });
  const check = (record: PromptRecord) => checkRecord(record as RaifRecord, judge !== null);
  return [
    { ...part('answer', 'answer', 1), check },
    part('format', 'format', 1),
    part('accuracy', 'accuracy', 0),
    part('constraints_met', 'met', 0),
    ...(repetition === 0 ? [] : [repetitionPenalty({ weight: repetition })]),
  ];
}

/** Rows come from `parseRaifPrompts`, and questions need someone to answer them. */
function checkRecord({ kind, origin, prompt }: RaifRecord, judged: boolean): void {
  if (kind === undefined || !readPrompt(prompt))
    throw new UnsupportedError('A row not read as RAIF data', 'its rewards');
  if (kind === 'complex' && !judged)
    throw new UnsupportedError(`${origin} asks questions, which`, 'raif without a judge');
}

/** Counts the questions that an answer meets. */
function questionReward(judge: JudgeModel, timeoutMs: number): Reward {
  return judgeReward({ judge, timeoutMs, score: (met) => met });
}

/** Everything at once that needs no judge, then what needs one in a single batch. */
async function judgeBatch(
  batch: readonly RewardSample[],
  judge: Reward | null,
  options: RaifRewardOptions,
): Promise<Verdict[]> {
  const first = batch.map((sample) => judgeReply(sample, options));
  const open = first.filter((verdict): verdict is RewardSample => 'record' in verdict);
  if (open.length > 0 && !judge) throw new UnsupportedError('A row with scoring_questions', 'rewards without a judge');
  const counts = open.length > 0 ? await judge!.score(open) : [];
  let next = 0;
  return first.map((verdict) => {
    if (!('record' in verdict)) return verdict;
    const questions = verdict.record.scoring_questions as string[];
    return { ...combine(counts[next++]!, questions.length), format: 1 };
  });
}

/** The verdict on a reply, or what a judge must be asked. */
function judgeReply(sample: RewardSample, options: RaifRewardOptions): Verdict | RewardSample {
  const prompt = readPrompt(sample.prompt);
  if (!prompt) throw new UnsupportedError('A prompt in none of the five templates', 'the RAIF rewards');
  const record = sample.record as RaifRecord;
  const reply = readReply(sample, prompt);
  const { freeForm, kind } = record;
  const format = reply.wellFormed || freeForm ? 1 : -1;
  if (kind === 'maths') return { ...judgeMaths(reply, record, options), format, met: null };
  // A reply that was not allowed to think is judged by its answer alone.
  const thought = thinks(reply) || freeForm || (reply.direct && !options.released);
  // The released checker of rules got the label where the reply belongs, which never has the format.
  const unread = kind === 'ifeval' && options.released;
  if (format < 0 || !thought || reply.answer === '' || unread) {
    return { answer: scores.none, accuracy: 0, format, met: null };
  }
  if (kind === 'ifeval') {
    const followed = checkInstructions(instructionsOf(record), sample.prompt, reply.answer);
    return { ...combine(followed.filter(Boolean).length, followed.length), format };
  }
  const messages = conversationOf(sample.prompt, prompt);
  return { ...sample, record: { messages, scoring_questions: record.scoring_questions }, completion: reply.answer };
}

/** 2 for all, -2 for none, else the share. */
function combine(met: number, total: number): Omit<Verdict, 'format'> {
  const share = met / total;
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

const knownInstructions = new WeakMap<RaifRecord, readonly Instruction[]>();

function instructionsOf(record: RaifRecord): readonly Instruction[] {
  const instructions = knownInstructions.get(record) ?? readInstructions(record);
  knownInstructions.set(record, instructions);
  return instructions;
}
