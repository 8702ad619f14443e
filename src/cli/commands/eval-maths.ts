import { fingerprint } from '../../eval/eval-folder.js';
import { gradeResponses, parseMaths, summariseMaths } from '../../eval/maths.js';
import { mathsPage } from '../../eval/report/pages.js';
import { type AnswerFlags, answerPartOf, limited, withAnswers } from '../eval-answers.js';
import { writeResults } from '../eval-output.js';
import { readInput } from '../model.js';

interface MathsFlags extends AnswerFlags {
  data: string;
  questionField: string;
  answerField: string;
  instruction: string;
}

export async function evalMaths(flags: MathsFlags): Promise<number> {
  const { questionField: question, answerField: answer, instruction } = flags;
  const text = await readInput(flags.data);
  const items = limited(parseMaths(text, flags.data, { question, answer }), flags);
  const identity = { benchmark: 'maths', data: fingerprint(text), questionField: question, instruction };
  const askable = items.map((item) => {
    const asked = instruction === '' ? item.question : `${item.question}\n\n${instruction}`;
    return { id: item.id, prompts: [asked, item.question] };
  });
  return withAnswers(flags, identity, askable, async (session) => {
    const verdicts = gradeResponses(items, session.rows, answerPartOf(flags));
    const summary = summariseMaths(verdicts);
    const { correct, wrong, withoutAnswer, undecided, missing } = summary;
    const none = withoutAnswer > 0 ? ` (${withoutAnswer} without an answer)` : '';
    await writeResults(flags, session, {
      benchmark: 'maths',
      summary,
      page: (context) => mathsPage(summary, verdicts, context),
      headings: ['accuracy'],
      table: [['questions', summary.accuracy]],
      lines: [
        `${correct} right, ${wrong} wrong${none}, ${undecided} undecided, ${missing} missing`,
        ...Object.values(summary.intervals),
      ],
    });
  });
}
