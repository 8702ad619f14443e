import { Limiter } from '../http/limiter.js';
import type { JudgeModel } from '../rewards/judge.js';
import { judgeMessages, type Verdicts } from '../rewards/judge-prompt.js';
import type { Conversation } from './answers.js';

/**
 * Answers yes/no questions about the last message of a conversation, one verdict a question. null: the judge gave none,
 * which is not a no.
 */
export type AskJudge = (
  conversation: Conversation,
  questions: readonly string[],
  signal: AbortSignal,
) => Promise<(boolean | null)[]>;

const verdicts: Verdicts = { yes: 'YES', no: 'NO' };

/** Asks the judge of the judge reward, each question alone, so many at a time. */
export function askJudge(judge: JudgeModel, concurrency: number): AskJudge {
  const limiter = new Limiter(concurrency);
  return (conversation, questions, signal) =>
    Promise.all(
      questions.map(async (question) => {
        const record = { messages: conversation.slice(0, -1) };
        const messages = judgeMessages({ record, prompt: '' }, conversation.at(-1)!.content, question, verdicts);
        const answer = await limiter.run(() => judge.answer(messages, verdicts, signal));
        return typeof answer === 'string' ? answer === 'yes' : null;
      }),
    );
}
