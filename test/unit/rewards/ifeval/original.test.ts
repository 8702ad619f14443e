import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { checkInstructions, INSTRUCTION_IDS, validateInstructions } from '../../../../src/rewards/ifeval/index.js';

const lines = readFileSync(new URL('../../../fixtures/ifeval/verdicts.jsonl', import.meta.url), 'utf8')
  .trimEnd()
  .split('\n')
  .map((line) => JSON.parse(line));
const header: { id: string; kwargs: object }[] = lines[0].instructions;
const rows: { response: string; strict: string; loose: string }[] = lines.slice(1);
const ids = header.map(({ id }) => id);
const instructions = validateInstructions(
  ids,
  header.map(({ kwargs }) => kwargs),
);

describe('verdicts of the original checker', () => {
  it('covers every instruction that the original has, met and missed', () => {
    expect([...new Set(ids)].sort()).toEqual(INSTRUCTION_IDS.filter((id) => id !== 'detectable_format:xml_format'));
    ids.forEach((id, i) => {
      const verdicts = new Set(rows.map((row) => row.strict[i]));
      expect(verdicts.has('0') && verdicts.has('1'), `${id} #${i}`).toBe(true);
    });
  });

  // Every difference is listed here and explained in docs/ifeval.md; the bound keeps the list from growing quietly.
  const DIFFERENCES = [
    // Scraps of JSON, Catalan to the original; the profiles here have no Catalan.
    'row 28, language:response_language #11, strict',
    'row 28, language:response_language #9, loose',
    'row 28, language:response_language #11, loose',
    'row 28, change_case:english_lowercase #44, loose',
    'row 30, change_case:english_lowercase #44, loose',
    // "A. Smith" is cut: outlines have "A." more often than names do.
    'row 56, length_constraints:number_sentences #19, strict',
    'row 56, length_constraints:number_sentences #19, loose',
    // Hindi and Thai: NLTK 3.10 takes combining marks for word characters, Python and NLTK before it do not.
    'row 68, length_constraints:number_words #23, strict',
    'row 68, length_constraints:number_words #23, loose',
    'row 96, length_constraints:number_words #23, strict',
    'row 96, length_constraints:number_words #23, loose',
    // "LTD. KEPT" is not cut: whether a content word after an abbreviation owes its capital to it takes the whole model.
    'row 205, length_constraints:number_sentences #20, strict',
    'row 216, length_constraints:number_sentences #20, loose',
    'row 283, length_constraints:number_sentences #20, loose',
  ];

  it('are given here too, on at least 99.5 % of single instructions, with every difference listed', () => {
    const differences: string[] = [];
    let compared = 0;
    rows.forEach((row, line) => {
      for (const mode of ['strict', 'loose'] as const) {
        const verdicts = checkInstructions(instructions, '', row.response, { loose: mode === 'loose' });
        verdicts.forEach((met, i) => {
          const original = row[mode][i];
          if (original === '?') return;
          compared++;
          if (met !== (original === '1')) differences.push(`row ${line + 2}, ${ids[i]} #${i}, ${mode}`);
        });
      }
    });
    expect(differences).toEqual(DIFFERENCES);
    expect(1 - differences.length / compared).toBeGreaterThanOrEqual(0.995);
  });
});

const data = new URL('../../../../../shared/data/ifeval/input_data.jsonl', import.meta.url);

describe.skipIf(!existsSync(data))('the prompts of IFEval', () => {
  it('all validate', () => {
    const prompts = readFileSync(data, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(prompts.length).toBeGreaterThanOrEqual(540);
    const checked = prompts.flatMap((row) => validateInstructions(row.instruction_id_list, row.kwargs));
    expect(checked).toHaveLength(prompts.flatMap((row) => row.instruction_id_list).length);
    expect(new Set(checked.map(({ id }) => id)).size).toBe(25);
  });
});
