import { describe, expect, it } from 'vitest';
import { parseJsonl } from '../../../src/data/jsonl.js';
import { parseDemonstrations, parsePrompts } from '../../../src/data/records.js';
import { FileFormatError } from '../../../src/errors.js';

const lines = (...rows: unknown[]) => rows.map((row) => JSON.stringify(row)).join('\n');

describe('parseJsonl', () => {
  it('takes CRLF, a byte order mark, empty lines and a missing last newline', () => {
    expect(parseJsonl('\uFEFF{"a":1}\r\n\r\n  \n[2]', 'f')).toEqual([
      { line: 1, value: { a: 1 } },
      { line: 4, value: [2] },
    ]);
  });

  it('names file and line of a bad line', () => {
    const error = catchError(() => parseJsonl('{"a":1}\n\n{"a":', 'data/train.jsonl'));
    expect(error).toMatchObject({ file: 'data/train.jsonl', line: 3, code: 'GRPO_FILE_FORMAT' });
    expect(error.message).toMatch(/^data\/train\.jsonl:3: not JSON: /);
  });
});

describe('parsePrompts', () => {
  it('keeps every field of a row', () => {
    const row = { messages: [{ role: 'user', content: 'hi' }], answer: 4, tags: ['a'] };
    expect(parsePrompts(lines(row, { prompt: 'x' }), 'f')).toEqual([row, { prompt: 'x' }]);
  });

  it.each([
    [[1], /must be an object/],
    [null, /must be an object/],
    [{ question: 'x' }, /no prompt or messages; the row has question/],
    [{ prompt: '' }, /prompt must be a text/],
    [{ prompt: 3 }, /prompt must be a text, got 3/],
    [{ prompt: 'a', messages: [] }, /both prompt and messages/],
    [{ messages: [] }, /at least one message/],
    [{ messages: [{ role: 'user', content: 'a' }, { role: 'user' }] }, /messages\[1\]/],
    [{ messages: [null] }, /messages\[0\]/],
  ])('rejects %j with its line', (row, expected) => {
    const error = catchError(() => parsePrompts(lines({ prompt: 'fine' }, row), 'train.jsonl'));
    expect(error.message).toMatch(expected);
    expect(error).toMatchObject({ file: 'train.jsonl', line: 2 });
  });

  it('rejects a file without rows', () => {
    expect(() => parsePrompts('\n', 'empty.jsonl')).toThrow('empty.jsonl: no rows');
  });
});

describe('parseDemonstrations', () => {
  it('takes the completion from its field or from the last message', () => {
    const messages = [
      { role: 'user', content: 'q' },
      { role: 'assistant', content: 'a' },
    ];
    expect(parseDemonstrations(lines({ prompt: 'q', completion: 'a' }, { messages, id: 1 }), 'f')).toEqual([
      { prompt: 'q', completion: 'a' },
      { messages: [messages[0]], completion: 'a', id: 1 },
    ]);
  });

  it.each([
    [{ prompt: 'q' }, /no completion/],
    [{ prompt: 'q', completion: 4 }, /completion must be a text, got 4/],
    [{ messages: [{ role: 'user', content: 'q' }] }, /no completion/],
    [{ messages: [{ role: 'assistant', content: 'a' }] }, /no prompt/],
  ])('rejects %j with its line', (row, expected) => {
    const error = catchError(() => parseDemonstrations(lines(row), 'sft.jsonl'));
    expect(error.message).toMatch(expected);
    expect(error.line).toBe(1);
  });
});

function catchError(action: () => unknown): FileFormatError {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(FileFormatError);
    return error as FileFormatError;
  }
  throw new Error('no error was thrown');
}
