import { describe, expect, it } from 'vitest';
import '../../../src/platform/node.js';
import { TextStream } from '../../../src/serve/responses.js';
import { Tokenizer } from '../../../src/text/tokenizer.js';
import { fixtureFolder } from '../models/fixtures.js';

/** The parts in which a text arrives, token by token. */
function parts(tokenizer: Tokenizer, ids: number[], stop: string[], finalText: string): string[] {
  const stream = new TextStream(tokenizer, stop);
  return ids.map((id, i) => {
    const end = i === ids.length - 1 ? { reason: 'stop' as const, text: finalText } : null;
    return stream.next({ sample: 0, id, logProb: 0, alternatives: [], ids: ids.slice(0, i + 1), end });
  });
}

describe.each(['qwen2', 'llama', 'mistral'])('TextStream with the tokenizer of %s', (name) => {
  it('gives the text of the whole, characters of several tokens in one piece', async () => {
    const tokenizer = await Tokenizer.load(fixtureFolder(name));
    const text = 'It is 12.  Two spaces,\n数学🙂 and é.';
    const ids = [...tokenizer.encode(text, { addSpecialTokens: false })];
    const whole = tokenizer.decode(ids);
    const pieces = parts(tokenizer, ids, [], whole);
    expect(pieces.join('')).toBe(whole);
    expect(pieces.some((piece) => piece.includes('\ufffd'))).toBe(whole.includes('\ufffd'));
    expect(pieces.filter((piece) => piece !== '').length).toBeGreaterThan(5);
  });
});

it('holds back what may become a stop string, and lets it go when it does not', () => {
  const tokenizer = Tokenizer.fromCharacters('abcd');
  const encode = (text: string) => [...tokenizer.encode(text)];
  expect(parts(tokenizer, encode('abaabdc'), ['abc'], 'abaabdc')).toEqual(['', '', 'ab', 'a', '', 'abd', 'c']);
  expect(parts(tokenizer, encode('abaabc'), ['abc'], 'aba')).toEqual(['', '', 'ab', 'a', '', '']);
});
