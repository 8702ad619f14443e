import { expect, it } from 'vitest';
import '../../../src/platform/node.js';
import { StopStrings } from '../../../src/rollout/stop-strings.js';
import { Tokenizer } from '../../../src/text/tokenizer.js';
import { fixtureFolder } from '../models/fixtures.js';

it('finds a string that many tokens make up, at the token that completes it', async () => {
  const tokenizer = await Tokenizer.load(fixtureFolder('qwen2'));
  const text = 'It is 12. </answer> and 数学🙂 more';
  for (const stop of ['</answer>', '数学🙂', ' more', 'It']) {
    const stops = new StopStrings(tokenizer, ['absent', stop]);
    const ids = [...tokenizer.encode(text)];
    const end = ids.findIndex((_, i) => stops.cut(ids.slice(0, i + 1)) !== null);
    expect(tokenizer.decode(ids.slice(0, end))).not.toContain(stop);
    expect(tokenizer.decode(ids.slice(0, end + 1))).toContain(stop);
    expect(stops.cut(ids.slice(0, end + 1))).toBe(text.slice(0, text.indexOf(stop)));
  }
});

it('finds none where there is none', () => {
  const tokenizer = Tokenizer.fromCharacters('abc');
  expect(new StopStrings(tokenizer, []).cut([2, 3])).toBeNull();
  expect(new StopStrings(tokenizer, ['ca']).cut([2, 3, 4])).toBeNull();
});
