import type { Family } from './instruction.js';
import { ANY, countMatches, DIGIT, LINE_START, literal, SPACE, strip, stripCharacters } from './python-text.js';
import { isWellFormed } from './xml.js';

// A bullet looks back for its line start. Looking ahead from every line start for a bullet would take quadratic time on a
// long run of blank lines.
const STAR_BULLET = new RegExp(`\\*(?<=${LINE_START}${SPACE}*\\*)[^*]${ANY}*`, 'gu');
const DASH_BULLET = new RegExp(`-(?<=${LINE_START}${SPACE}*-)${ANY}*`, 'gu');
const FIXED_ANSWERS = ['My answer is yes.', 'My answer is no.', 'My answer is maybe.'];

export const format: Family = {
  'detectable_format:number_bullet_lists': (parameters) => {
    const wanted = parameters.count('num_bullets');
    return (response) => countMatches(response, STAR_BULLET) + countMatches(response, DASH_BULLET) === wanted;
  },

  'detectable_format:constrained_response': () => (response) =>
    FIXED_ANSWERS.some((answer) => response.includes(answer)),

  // **bold** counts once: its stars also make two empty *...* around it, which do not count.
  'detectable_format:number_highlighted_sections': (parameters) => {
    const wanted = parameters.count('num_highlights');
    return (response) => {
      const single = response.match(/\*[^\n*]*\*/gu) ?? [];
      const double = response.match(/\*\*[^\n*]*\*\*/gu) ?? [];
      const filled = (mark: string) => strip(stripCharacters(mark, '*')) !== '';
      return single.filter(filled).length + double.filter(filled).length >= wanted;
    };
  },

  'detectable_format:multiple_sections': (parameters) => {
    const splitter = literal(parameters.text('section_spliter').trim());
    const heading = new RegExp(`${SPACE}?${splitter}${SPACE}?${DIGIT}+${SPACE}?`, 'gu');
    const wanted = parameters.count('num_sections');
    return (response) => countMatches(response, heading) >= wanted;
  },

  'detectable_format:json_format': () => (response) => {
    try {
      JSON.parse(unfence(response, ['```json', '```Json', '```JSON', '```']));
      return true;
    } catch {
      return false;
    }
  },

  'detectable_format:xml_format': () => (response) => isWellFormed(unfence(response, ['```xml', '```XML', '```'])),

  'detectable_format:title': () => (response) =>
    (response.match(/<<[^\n]+>>/gu) ?? []).some(
      (title) => strip(stripCharacters(stripCharacters(title, '<', 'start'), '>', 'end')) !== '',
    ),
};

/** The text within a Markdown fence. Like the original, removes each opening once, in turn. */
function unfence(response: string, openings: string[]): string {
  let text = strip(response);
  for (const opening of openings) if (text.startsWith(opening)) text = text.slice(opening.length);
  if (text.endsWith('```')) text = text.slice(0, -3);
  return strip(text);
}
