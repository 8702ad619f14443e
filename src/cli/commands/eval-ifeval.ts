import { fingerprint } from '../../eval/eval-folder.js';
import { checkResponses, originalResults, parseIFEval, summariseIFEval } from '../../eval/ifeval.js';
import { ifevalPage } from '../../eval/report/pages.js';
import { type AnswerFlags, answerPartOf, limited, withAnswers } from '../eval-answers.js';
import { writeResults } from '../eval-output.js';
import { readInput } from '../model.js';

/** Writes eval_results_strict.jsonl and eval_results_loose.jsonl, as the original does, beside summary and report. */
export async function evalIFEval(flags: AnswerFlags & { data: string }): Promise<number> {
  const text = await readInput(flags.data);
  const items = limited(parseIFEval(text, flags.data), flags);
  const identity = { benchmark: 'ifeval', data: fingerprint(text) };
  const askable = items.map(({ id, prompt }) => ({ id, prompts: [prompt] }));
  return withAnswers(flags, identity, askable, async (session) => {
    const verdicts = checkResponses(items, session.rows, answerPartOf(flags));
    const summary = summariseIFEval(verdicts);
    for (const mode of ['strict', 'loose'] as const) {
      await session.folder.writeJsonl(`eval_results_${mode}.jsonl`, originalResults(verdicts, mode));
    }
    const { strict, loose } = summary;
    await writeResults(flags, session, {
      benchmark: 'IFEval',
      summary,
      page: (context) => ifevalPage(summary, verdicts, context),
      headings: ['strict', 'loose'],
      table: [
        ['prompts', strict.promptLevel, loose.promptLevel],
        ['instructions', strict.instructionLevel, loose.instructionLevel],
      ],
      lines: Object.values(summary.intervals),
    });
  });
}
