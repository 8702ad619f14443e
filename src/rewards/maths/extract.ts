import { isReadable, parseAnswer } from './answer-parser.js';
import { limits } from './limits.js';

/**
 * Finds the final answer in a reply, as it is written there; null when the reply gives none. In this order:
 *
 * 1. Thinking does not count: everything up to the last `</think>` is dropped, and so is a `<think>` that never ends (a truncated reply).
 * 2. When there is a finished `<answer>…</answer>` block, only the last one is looked at.
 * 3. The last `\boxed{…}` or `\fbox{…}` that has content and is closed; of nested ones the inner.
 * 4. The last line `#### …` with something mathematical on it (a Markdown heading such as `#### Step 2: add` has not).
 * 5. What follows the last "answer is", "answer:" or 答案是: the longest run of words from there that can be read as mathematics, else the
 *    sentence when it has no more than five words (a text answer).
 * 6. The whole text when it is nothing but an answer (or the whole `<answer>` block when that is short).
 * 7. The last number in the text, or the formula in dollar signs that it stands in.
 */
export function extractAnswer(text: string): string | null {
  const reply = afterThinking(text);
  const block = lastAnswerBlock(reply);
  if (block !== null) return explicitAnswer(block) ?? wholeText(block, 12) ?? lastNumber(block);
  return explicitAnswer(reply) ?? wholeText(reply, 5) ?? lastNumber(reply);
}

function explicitAnswer(text: string): string | null {
  return lastBox(text) ?? lastHashLine(text) ?? lastPhrase(text);
}

function afterThinking(text: string): string {
  const end = text.lastIndexOf('</think>');
  const reply = end < 0 ? text : text.slice(end + '</think>'.length);
  const start = reply.indexOf('<think>');
  return start < 0 ? reply : reply.slice(0, start);
}

function lastAnswerBlock(text: string): string | null {
  const end = text.lastIndexOf('</answer>');
  const start = end < 0 ? -1 : text.lastIndexOf('<answer>', end);
  const content = start < 0 ? '' : text.slice(start + '<answer>'.length, end).trim();
  return content === '' ? null : content;
}

/** One pass with a stack of open braces, so that a million unclosed boxes cost no more than a million letters. */
function lastBox(text: string): string | null {
  const open: { position: number; isBox: boolean }[] = [];
  let best: { start: number; end: number } | null = null;
  const scanner = /\\(?:boxed|fbox|framebox)\s*(?:\{|([^\s{}$\\]+))|\\[\s\S]|[{}]/g;
  for (const match of text.matchAll(scanner)) {
    const end = match.index + match[0].length;
    if (match[0] === '}') {
      const opener = open.pop();
      if (!opener?.isBox || text.slice(opener.position, match.index).trim() === '') continue;
      if (!best || opener.position > best.start) best = { start: opener.position, end: match.index };
    } else if (match[1] !== undefined) best = { start: end - match[1].length, end };
    else if (match[0].endsWith('{') && match[0] !== '\\{') open.push({ position: end, isBox: match[0] !== '{' });
  }
  return best && text.slice(best.start, best.end).trim();
}

function lastHashLine(text: string): string | null {
  let end = text.length;
  for (let tries = 0; tries < maximumTries; tries++) {
    const start = end > 0 ? text.lastIndexOf('####', end - 1) : -1;
    if (start < 0) return null;
    const line = lineAt(text, start + 4).replace(/^#+/, '');
    const answer = line.replace(/^[\s*]*(?:the\s+)?(?:final\s+)?answer[\s*]*(?:is|:)?/i, '').trim();
    if (answer.length <= limits.answerLength && isReadable(parseAnswer(answer))) return answer;
    end = start;
  }
  return null;
}

/** How many markers are looked at, from the end of the text. */
const maximumTries = 20;

const phrase = /\banswer\b[^.:=\n]{0,60}?(?:\bis\b|\bare\b|[:=：])|答案(?:是|为|：|:)/gi;

function lastPhrase(text: string): string | null {
  const starts = [...text.matchAll(phrase)].slice(-maximumTries).map((match) => match.index + match[0].length);
  let prose: string | null = null;
  for (const start of starts.reverse()) {
    // The answer may stand on the next lines: "Answer:\n\n$42$".
    const rest = text.slice(start, start + 2 * limits.answerLength).replace(/^[\s:*_]+/, '');
    const sentence = firstSentence(rest);
    const answer = longestReadable(sentence);
    if (answer) return answer;
    const words = sentence.replace(/[*_.\s]+$/, '');
    if (words !== '' && !words.endsWith(':') && words.split(/\s+/).length <= 5) prose ??= words;
  }
  return prose;
}

/** Up to the end of the line, or to a full stop that ends a sentence. Display maths may span lines. */
function firstSentence(text: string): string {
  const display = /^(?:\$\$([^$]{1,1000})\$\$|\\\[([\s\S]{1,1000}?)\\\])/.exec(text);
  if (display) return (display[1] ?? display[2])!.replace(/\s+/g, ' ').trim();
  const line = lineAt(text, 0);
  const end = line.search(/[.!?。](?:\s|\*|$)/);
  return (end < 0 ? line : line.slice(0, end)).trim();
}

const connective = /\s(?:because|since|so|which|as|where|when|for|if|that|but|after|before)\s/i;

/** Words between "the answer is" and the answer. */
const filler =
  /^(?:(?:therefore|thus|hence|then|so|simply|just|exactly|clearly|about|around|approximately|roughly|equal to|equals?|given by),?\s+)+/i;

/** The longest run of words from the start that is mathematics: `42` of `42 because 6 · 7 = 42`. */
function longestReadable(sentence: string): string | null {
  const end = sentence.search(connective);
  const clause = end < 0 ? sentence : sentence.slice(0, end);
  const words = clause.replace(filler, '').split(/\s+/).slice(0, 40);
  for (let count = words.length; count > 0; count--) {
    const answer = words
      .slice(0, count)
      .join(' ')
      .replace(/[\s,;:]+$/, '');
    if (answer.length <= limits.answerLength && isReadable(parseAnswer(answer))) return answer;
  }
  return null;
}

/** The text itself when all of it is an answer, or when it is a single line of a few words without a number in it. */
function wholeText(text: string, words: number): string | null {
  const trimmed = text.trim();
  if (trimmed === '' || trimmed.length > limits.answerLength) return null;
  if (isReadable(parseAnswer(trimmed))) return trimmed;
  return !/[\n\d]/.test(trimmed) && trimmed.split(/\s+/).length <= words ? trimmed : null;
}

const plainNumber =
  /\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:\/\d+)?(?: ?\\?%| (?:hundred|thousand|million|billion|trillion)\b)?|\$?\.\d+/g;
const formula = /\$\$?([^$\n]{1,500})\$\$?|\\\(([^\n]{1,500}?)\\\)|\\\[([\s\S]{1,500}?)\\\]/g;

function lastNumber(text: string): string | null {
  let last: { start: number; text: string } | null = null;
  for (const match of text.matchAll(plainNumber)) last = { start: match.index, text: match[0] };
  if (!last) return null;
  const tailStart = Math.max(0, text.length - 2 * limits.answerLength);
  for (const match of text.slice(tailStart).matchAll(formula)) {
    const start = match.index + tailStart;
    const content = (match[1] ?? match[2] ?? match[3])!.trim();
    const surrounds = start < last.start && last.start < start + match[0].length;
    if (surrounds && /[\\^=+*/({]/.test(content) && isReadable(parseAnswer(content))) return content;
  }
  // A minus sign belongs to the number unless it stands between two operands or in a hyphenated word.
  const before = text.slice(Math.max(0, last.start - 2), last.start);
  const isNegative = /^(?:[^\p{L}\p{N})\]}]|)[-−]$/u.test(before);
  return `${isNegative ? '-' : ''}${last.text}`;
}

function lineAt(text: string, start: number): string {
  const end = text.indexOf('\n', start);
  return text.slice(start, end < 0 ? undefined : end).trim();
}
