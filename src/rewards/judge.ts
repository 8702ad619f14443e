import type { PromptRecord } from '../data/prompts.js';
import { GrpoError, InvalidArgumentError } from '../errors.js';
import { Limiter } from '../http/limiter.js';
import type { JudgeAnswer, JudgeModel } from './judge-models.js';
import { judgeMessages, type Verdicts } from './judge-prompt.js';
import type { Reward, RewardSample } from './reward.js';

export {
  type EndpointJudgeOptions,
  endpointJudge,
  type JudgeAnswer,
  type JudgeModel,
  localJudge,
} from './judge-models.js';
export type { Verdicts } from './judge-prompt.js';

/** A question that got no verdict. */
export interface JudgeProblem {
  reason: 'tie' | 'too-long' | 'unclear' | 'failed' | 'questions';
  message: string;
  question: string | null;
}

export interface JudgeRewardOptions {
  judge: JudgeModel;
  /** Default `judge`. */
  name?: string;
  weight?: number;
  /** The field of a record that holds the questions. Default `scoring_questions`. */
  field?: string;
  /** The text that is judged; null scores as no question met. Default: the whole completion. */
  answer?: (sample: RewardSample) => string | null;
  /** Default: the share of the questions that are met. */
  score?: (met: number, questions: number) => number;
  /** Default `YES` and `NO`. */
  verdicts?: Verdicts;
  /** Most questions at a time. Default 8. */
  concurrency?: number;
  /** Milliseconds for a batch; questions that are open then get no verdict. Default 600,000. */
  timeoutMs?: number;
  /** Verdicts that are remembered. Default 10,000. */
  cacheSize?: number;
  /** Hears of every question without a verdict. */
  onProblem?: (problem: JudgeProblem) => void;
}

/**
 * Puts the yes/no questions of a record to a judge. A sample with a question that got no verdict cannot be scored (NaN);
 * a record without questions is not this reward's business (null). Throws when a batch got no verdict at all because
 * the judge failed, so that the reason is reported. `docs/judge.md` has the details.
 */
export function judgeReward(options: JudgeRewardOptions): Reward {
  const { judge, name = 'judge', weight, field = 'scoring_questions', verdicts = { yes: 'YES', no: 'NO' } } = options;
  const { score = (met, questions) => met / questions, answer = (sample) => sample.completion } = options;
  const { concurrency = 8, timeoutMs = 600_000, cacheSize = 10_000, onProblem = () => {} } = options;
  if (typeof judge?.answer !== 'function') throw new InvalidArgumentError('judge', 'a judge model', judge);
  if (verdicts.yes === '' || verdicts.no === '' || verdicts.yes === verdicts.no) {
    throw new InvalidArgumentError('verdicts', 'two texts that differ', [verdicts.yes, verdicts.no]);
  }
  if (!(timeoutMs > 0 && timeoutMs < 2 ** 31)) throw new InvalidArgumentError('timeoutMs', 'a time above 0', timeoutMs);
  if (!(cacheSize >= 0)) throw new InvalidArgumentError('cacheSize', 'a number of 0 or more', cacheSize);
  const limiter = new Limiter(concurrency);
  const cache = new VerdictCache(cacheSize);

  const decide = async (sample: RewardSample, text: string, question: string, signal: AbortSignal) => {
    const messages = judgeMessages(sample, text, question, verdicts);
    const ask = () => limiter.run(() => untilAborted(judge.answer(messages, verdicts, signal), signal));
    return cache.get(JSON.stringify([messages, verdicts]), ask);
  };

  return {
    name,
    weight,
    // The batch has its own time limit, which spares what was judged before it.
    timeoutMs: Number.POSITIVE_INFINITY,
    async score(batch) {
      const signal = AbortSignal.timeout(timeoutMs);
      const failures: unknown[] = [];
      let decided = 0;
      const verdictOf = async (sample: RewardSample, text: string, question: string): Promise<boolean | null> => {
        try {
          const given = await decide(sample, text, question, signal);
          if (typeof given === 'string') {
            decided++;
            return given === 'yes';
          }
          onProblem({ reason: given.problem, message: given.message, question });
        } catch (error) {
          failures.push(error);
          onProblem({ reason: 'failed', message: (error as Error).message, question });
        }
        return null;
      };
      const scores = await Promise.all(
        batch.map(async (sample) => {
          let questions: string[] | null;
          try {
            questions = judgeQuestions(sample.record, field);
          } catch (error) {
            onProblem({ reason: 'questions', message: (error as Error).message, question: null });
            return Number.NaN;
          }
          if (questions === null) return null;
          const text = answer(sample);
          if (text === null) return score(0, questions.length);
          const met = await Promise.all(questions.map((question) => verdictOf(sample, text, question)));
          return met.includes(null) ? Number.NaN : score(met.filter(Boolean).length, questions.length);
        }),
      );
      if (decided === 0 && failures.length > 0) {
        const message = `The judge answered none of ${failures.length} questions: ${(failures[0] as Error).message}`;
        throw new GrpoError('GRPO_JUDGE', message, { cause: failures[0] });
      }
      return scores;
    },
  };
}

/** The questions of a record, null where it has none of that field. Throws when the field holds anything else. */
export function judgeQuestions(record: PromptRecord, field = 'scoring_questions'): string[] | null {
  const value = record[field];
  if (value === undefined || value === null) return null;
  const good = Array.isArray(value) && value.length > 0 && value.every((q) => typeof q === 'string' && q.trim() !== '');
  if (!good) throw new InvalidArgumentError(field, 'a list of at least one question', value);
  return value as string[];
}

/** Verdicts by the content that they are about. What got none is asked again. */
class VerdictCache {
  readonly #size: number;
  readonly #entries = new Map<string, Promise<JudgeAnswer>>();

  constructor(size: number) {
    this.#size = size;
  }

  async get(content: string, ask: () => Promise<JudgeAnswer>): Promise<JudgeAnswer> {
    const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(content));
    const key = Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('');
    const known = this.#entries.get(key);
    this.#entries.delete(key);
    const answer = known ?? ask();
    // Again at the end: the entry that was not used for the longest is the first to go.
    this.#entries.set(key, answer);
    if (this.#entries.size > this.#size) this.#entries.delete(this.#entries.keys().next().value!);
    const forget = () => this.#entries.get(key) === answer && this.#entries.delete(key);
    answer.then((given) => typeof given === 'string' || forget(), forget);
    return answer;
  }
}

/** Stops waiting at the abort, whether the work can be stopped or not. */
function untilAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  // A signal of its own, since Node warns when more than ten listeners wait on one.
  const own = AbortSignal.any([signal]);
  return new Promise((resolve, reject) => {
    const abort = () => reject(own.reason);
    if (own.aborted) abort();
    own.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => own.removeEventListener('abort', abort));
  });
}
