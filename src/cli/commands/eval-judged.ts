import { resolve } from 'node:path';
import { collect } from '../../eval/collect.js';
import { fingerprint, verdictsFile } from '../../eval/eval-folder.js';
import { type AskJudge, askJudge } from '../../eval/judge.js';
import {
  type JudgedConfig,
  type JudgedItem,
  type JudgedVerdict,
  judgedConfigSchema,
  parseJudged,
  summariseJudged,
  withDependencies,
} from '../../eval/judged.js';
import { nodeTransport } from '../../eval/node-transport.js';
import { RecordLog } from '../../eval/record-log.js';
import { judgedPage } from '../../eval/report/pages.js';
import { type AnswerPartOptions, answerPart } from '../../rewards/answer-part.js';
import { endpointJudge, type JudgeModel, localJudge } from '../../rewards/judge.js';
import { ConsoleTracker } from '../../tracking/console.js';
import { parseConfig } from '../../trainer/parse-config.js';
import { ConfigSource, readConfigFile } from '../config-source.js';
import {
  type AnswerFlags,
  answerPartOf,
  type EvalSession,
  limited,
  requireAll,
  serverOptions,
  withAnswers,
} from '../eval-answers.js';
import { writeResults } from '../eval-output.js';
import { readInput, withModel } from '../model.js';

type JudgedFlags = AnswerFlags & { config: string };

interface VerdictRow {
  id: string;
  /** What the judge said, before dependencies. */
  verdicts: (boolean | null)[];
}

export async function evalJudged(flags: JudgedFlags): Promise<number> {
  const config = await readBenchmark(flags.config);
  const text = await readInput(config.data);
  const items = limited(parseJudged(text, config.data, config.fields), flags);
  const { url, model, maxTokens } = config.judge;
  const part = answerPartOf(flags);
  const identity = {
    benchmark: config.name,
    data: fingerprint(text),
    fields: config.fields,
    judge: { url, model, maxTokens },
    part,
  };
  const askable = items.map(({ id, prompt }) => ({ id, prompts: [prompt] }));
  return withAnswers(flags, identity, askable, async (session) => {
    const notes = [...session.notes];
    const results = await judge(flags, config.judge, items, { ...session, notes }, part);
    const summary = summariseJudged(results);
    if (summary.unanswered > 0) {
      notes.push(`${summary.unanswered} questions got no verdict from the judge and count in no share.`);
    }
    await writeResults(
      flags,
      { ...session, notes },
      {
        benchmark: config.name,
        summary,
        page: (context) => judgedPage(summary, results, context),
        headings: ['met'],
        table: [
          ['questions', summary.questionLevel],
          ['items', summary.itemLevel],
        ],
        lines: Object.values(summary.intervals),
      },
    );
  });
}

async function readBenchmark(path: string): Promise<JudgedConfig> {
  const absolute = (value: unknown, base: string) => (typeof value === 'string' ? resolve(base, value) : value);
  const judge = (value: unknown, base: string) => {
    const { url, model } = (value ?? {}) as Record<string, unknown>;
    return url === undefined || url === null ? { ...(value as object), model: absolute(model, base) } : value;
  };
  const source = new ConfigSource(await readConfigFile(path), {}, { data: absolute, judge });
  return source.check(() => parseConfig(judgedConfigSchema, source.values));
}

async function withJudge<T>(
  flags: JudgedFlags,
  { url, model, maxTokens, apiKeyEnv }: JudgedConfig['judge'],
  use: (judge: JudgeModel) => Promise<T>,
): Promise<T> {
  if (url === null) return withModel({ ...flags, model }, (policy) => use(localJudge(policy)));
  const server = { url, model, method: 'text', maxReplyTokens: maxTokens, transport: nodeTransport } as const;
  return use(endpointJudge({ ...server, ...serverOptions(flags, apiKeyEnv) }));
}

/** Verdicts on all answers: those that the folder has, and the judge's on the others. */
async function judge(
  flags: JudgedFlags,
  config: JudgedConfig['judge'],
  items: readonly JudgedItem[],
  { folder, rows, signal, notes }: EvalSession,
  part: AnswerPartOptions,
): Promise<JudgedVerdict[]> {
  const answers = new Map(items.map(({ id }) => [id, answerPart(rows.get(id)?.response ?? '', part) ?? '']));
  const questions = new Map(items.map((item) => [item.id, item.questions]));
  const log = await RecordLog.open<VerdictRow>(folder.file(verdictsFile), (row) => verdictProblem(row, questions));
  // A blank answer meets nothing; a judge need not be asked.
  const judged = items.filter(({ id }) => answers.get(id)!.trim() !== '');
  const progress = new ConsoleTracker({ label: 'judged' });
  progress.start({ totalSteps: judged.length });
  const { concurrency } = config;
  const collectWith = (ask: AskJudge) =>
    collect(judged, log, {
      batchSize: 1,
      concurrency,
      signal,
      work: async ([item], _, both) => {
        const { id, prompt, questions } = item!;
        const conversation = [
          { role: 'user', content: prompt },
          { role: 'assistant', content: answers.get(id)! },
        ];
        const texts = questions.map(({ text }) => text);
        return [{ id, verdicts: await ask(conversation, texts, both) }];
      },
      progress: (done) => progress.metrics(done, { judged: done }),
    });
  const missing = judged.some(({ id }) => !log.rows.has(id));
  const { failures, interrupted } = missing
    ? await withJudge(flags, config, (judge) => collectWith(askJudge(judge, concurrency)))
    : { failures: [], interrupted: false };
  await progress.finish();
  if (interrupted) signal.throwIfAborted();
  requireAll(failures, { allowMissing: false }, judged.length, notes);
  return items.map((item) => {
    const said = log.rows.get(item.id)?.verdicts ?? item.questions.map(() => false);
    const verdicts = withDependencies(item.questions, said);
    return { item, answer: answers.get(item.id)!, missing: !rows.has(item.id), verdicts };
  });
}

function verdictProblem(row: Record<string, unknown>, questions: ReadonlyMap<string, readonly unknown[]>) {
  const { verdicts } = row;
  const count = questions.get(row.id as string)?.length;
  const valid =
    Array.isArray(verdicts) && verdicts.every((verdict) => verdict === null || typeof verdict === 'boolean');
  if (!valid) return 'verdicts must be a list of true, false and null';
  return count === undefined || count === verdicts.length
    ? undefined
    : `expected ${count} verdicts, got ${verdicts.length}`;
}
