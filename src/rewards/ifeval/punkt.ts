import { isLower, isUpper, NON_SPACE, SPACE, strip, stripEnd } from './python-text.js';

// Sentence boundaries by Punkt (Kiss and Strunk, 2006, "Unsupervised Multilingual Sentence Boundary Detection"), as NLTK 3.10
// applies its English model. The model itself, 20,000 words learnt from newspaper text, is not part of this package. What
// decides nearly every boundary is the rule for the mark and a list of abbreviations; the learnt case statistics speak only
// after abbreviations, initials, ellipses and ordinals. There `startsSentence` stands in for them.

/** Words after which a full stop does not end a sentence by itself. Single letters are added below. */
const ABBREVIATIONS = new Set(
  `mr mrs ms dr prof jr sr st messrs gen col lt maj adm sen rep reps inc ltd co corp cos bros cie vs
   jan feb aug sep sept oct nov dec tues wed fri a.m p.m a.d ph.d m.b.a u.s u.s.a u.k u.n u.s.s.r d.c l.a n.y n.j n.c s.c n.h n.m n.d
   ariz calif colo conn fla ga ill kan ky mich minn nev okla ore pa tenn va vt wash wis w.va ave ct ft mg yr
   j.k j.j j.p j.r j.b j.c h.f s.s t.j m.j r.j`.split(/\s+/),
);
for (const letter of 'cdefghklmnprstvw') ABBREVIATIONS.add(letter);

/**
 * Common words whose capital after an abbreviation says that a sentence begins. Not all common words: the model has seen
 * "And" or "We" with a capital within a sentence and trusts them no more.
 */
const OPENERS = new Set(
  `according although among being both but despite does either even he her here however i if in indeed instead it
   many meanwhile moreover most nevertheless nonetheless nor please similarly since so some sometimes still such
   the them there therefore these they this though through thus together under upon us very were when whether which
   while within without yes yet your`.split(/\s+/),
);

/** Words that the model takes for the continuation of a number, from the numbered lists of its newspapers. */
const ORDINAL_TITLES = new Set(
  'business commodities corrections credit dividend financing insider international leisure letters notable review who'.split(
    ' ',
  ),
);

/** Of the initials that are no abbreviations, those that seldom number an outline: "A. Overview" is cut, "J. Bach" is not. */
const SURNAME_FOLLOWS = /^[JOQUYZ]\.$/;

const CLOSING_QUOTES = '\\u2018\\u2019\\u201c\\u201d\\xab\\xbb';
/** Characters that end a word wherever they stand. */
const NON_WORD = `[)";}\\]*:@'({[!?${CLOSING_QUOTES}]`;
const MULTI = `(?:-{2,}|\\.{2,}|(?:\\.${SPACE}){2,}\\.)`;
const TOKEN = new RegExp(
  `${MULTI}|(?=[^("\`{[:;&#*@)}\\]\\-,])${NON_SPACE}+?(?=${SPACE}|$|${NON_WORD}|${MULTI}|,(?:$|${SPACE}|${NON_WORD}|${MULTI}))|${NON_SPACE}`,
  'gu',
);
const CANDIDATE = new RegExp(`[.?!](?=(${NON_WORD}|${SPACE}+(${NON_SPACE}+)))`, 'gdu');
const CLOSING = new RegExp(`^["')\\]}${CLOSING_QUOTES}]+?(?:${SPACE}+|(?=--)|(?![^\\n]))`, 'u');
const NUMBER = /^-?[.,]?\p{Nd}[\p{Nd},.-]*\.?$/u;
const INITIAL = /^[\p{L}\p{Nl}\p{No}_]\.$/u;
const ELLIPSIS = new RegExp(`^\\.(?:${SPACE}?\\.)+$`, 'u');
/** An ASCII set, unlike \s: this is where NLTK looks for the beginning of the word before a mark. */
const WORD_BREAK = /[ \t\n\r\v\f]/;

/** The sentences of a text, as nltk.sent_tokenize would cut it. White space between sentences is left out. */
export function splitSentences(text: string): string[] {
  const sentences: string[] = [];
  const bounds = boundaries(text);
  let moved = 0;
  for (let i = 0; i < bounds.length; i++) {
    const start = bounds[i]!.start + moved;
    const next = bounds[i + 1];
    // Closing quotes and brackets after the mark belong to the sentence that they close.
    const closing = next && CLOSING.exec(text.slice(next.start, next.end))?.[0];
    const end = closing ? next.start + stripEnd(closing).length : bounds[i]!.end;
    moved = closing ? closing.length : 0;
    if (end > start) sentences.push(text.slice(start, end));
  }
  return sentences;
}

interface Span {
  start: number;
  end: number;
}

function boundaries(text: string): Span[] {
  const spans: Span[] = [];
  let start = 0;
  for (const { mark, word, after, next } of candidates(text)) {
    if (!containsBreak(text.slice(word, mark) + text[mark] + after)) continue;
    spans.push({ start, end: mark + 1 });
    start = next ?? mark + 1;
  }
  spans.push({ start, end: Math.max(start, stripEnd(text).length) });
  return spans;
}

interface Candidate {
  /** Where the word before the mark begins, and where the mark stands. */
  word: number;
  mark: number;
  after: string;
  /** Where the next word begins, when white space stands between. */
  next: number | undefined;
}

/** One candidate a word: of the marks in "what?!" only the last is asked. */
function candidates(text: string): Candidate[] {
  const found: Candidate[] = [];
  let pending: Candidate | undefined;
  for (const match of text.matchAll(CANDIDATE)) {
    const mark = match.index;
    const from = pending?.mark ?? 0;
    let space = mark - 1;
    while (space > from && !WORD_BREAK.test(text[space]!)) space--;
    const word = space > from ? space + 1 : (pending?.word ?? 0);
    if (pending && pending.mark <= word) found.push(pending);
    pending = { word, mark, after: match[1]!, next: match.indices![2]?.[0] };
  }
  if (pending) found.push(pending);
  return found;
}

/** Whether one of the tokens ends a sentence. The last token is only there as the context of the one before. */
function containsBreak(context: string): boolean {
  const tokens = context.split('\n').flatMap((line) => (strip(line) === '' ? [] : (line.match(TOKEN) ?? [])));
  return tokens.slice(0, -1).some((token, i) => isBreak(token, tokens[i + 1]!));
}

function isBreak(token: string, next: string): boolean {
  if (token === '?' || token === '!') return true;
  if (!token.endsWith('.')) return false;
  const word = token.slice(0, -1).toLowerCase();
  const initial = INITIAL.test(token);
  const ellipsis = ELLIPSIS.test(token);
  const abbreviated = token !== '.' && (ABBREVIATIONS.has(word) || ABBREVIATIONS.has(word.split('-').at(-1)!));
  if (ellipsis || (abbreviated && !initial)) return startsSentence(next) === true;
  if (abbreviated || token.endsWith('..')) return false;
  if (!initial && !NUMBER.test(token)) return true;
  if (!initial && ORDINAL_TITLES.has(next.toLowerCase())) return false;
  // "1. Open the box" is cut after the number, as by the original; "J. Bach" is not cut after the initial.
  return startsSentence(next) ?? !(SURNAME_FOLLOWS.test(token) && isUpper(firstCharacter(next)));
}

/** Whether a word opens a sentence, judged by its case alone; undefined where the case does not tell. */
function startsSentence(word: string): boolean | undefined {
  if (/^[;:,.!?]$/.test(word)) return false;
  const first = firstCharacter(word);
  if (isLower(first)) return false;
  if (!isUpper(first)) return undefined;
  const lower = word.toLowerCase().replace(/\.$/, '');
  return OPENERS.has(lower) ? true : undefined;
}

function firstCharacter(word: string): string {
  return String.fromCodePoint(word.codePointAt(0)!);
}
