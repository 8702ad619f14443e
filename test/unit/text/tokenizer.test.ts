import { describe, expect, it } from 'vitest';
import { FileFormatError, InvalidArgumentError, UnsupportedError } from '../../../src/errors.js';
import '../../../src/platform/node.js';
import { ChatTemplate } from '../../../src/text/chat-template.js';
import { Tokenizer } from '../../../src/text/tokenizer.js';
import { fixture, fixtureFolder } from '../models/fixtures.js';

describe.each(['llama', 'qwen2', 'mistral'])('the tokenizer of the %s fixture', (name) => {
  it('encodes and decodes as transformers does', async () => {
    const tokenizer = await Tokenizer.load(fixtureFolder(name));
    for (const { text, ids, decoded } of fixture(name).texts) {
      expect([...tokenizer.encode(text)], JSON.stringify(text)).toEqual(ids);
      expect(tokenizer.decode(ids)).toBe(decoded);
    }
  });

  it('renders and encodes a chat as transformers does', async () => {
    const tokenizer = await Tokenizer.load(fixtureFolder(name));
    const { messages, text, ids } = fixture(name).chat;
    expect(tokenizer.applyChatTemplate(messages)).toBe(text);
    expect([...tokenizer.encodePrompt(messages)]).toEqual(ids);
  });

  it('knows its special tokens and its size', async () => {
    const tokenizer = await Tokenizer.load(fixtureFolder(name));
    expect(tokenizer.vocabSize).toBe(320);
    expect([tokenizer.bosTokenId, tokenizer.eosTokenId]).toEqual([0, 2]);
    expect(tokenizer.tokenId('<|im_start|>')).toBe(1);
    expect(tokenizer.tokenId('not a token')).toBeNull();
  });
});

describe('prompts', () => {
  const tokenizer = Tokenizer.fromCharacters('abc');

  it('may be ids already', () => {
    const ids = Int32Array.of(2, 3);
    expect(tokenizer.encodePrompt(ids)).toBe(ids);
    expect([...tokenizer.encodePrompt([3, 2])]).toEqual([3, 2]);
    expect([...tokenizer.encodePrompt([])]).toEqual([]);
  });

  it('of messages need a chat template', () => {
    expect(() => tokenizer.encodePrompt([{ role: 'user', content: 'a' }])).toThrow(UnsupportedError);
  });

  it('of another kind are refused', () => {
    expect(() => tokenizer.encodePrompt(7 as never)).toThrow(InvalidArgumentError);
  });
});

describe('a tokenizer of characters', () => {
  it('has one token a character, after the special ones', () => {
    const tokenizer = Tokenizer.fromCharacters('0123456789+', { specialTokens: ['<think>'] });
    expect([...tokenizer.encode('<think>1+2<|end|>')]).toEqual([2, 4, 13, 5, 0]);
    expect(tokenizer.decode([2, 4, 13, 5, 0])).toBe('1+2');
    expect(tokenizer.decode([2, 4, 13, 5, 0], { skipSpecialTokens: false })).toBe('<think>1+2<|end|>');
    expect(tokenizer.vocabSize).toBe(14);
    expect(tokenizer.eosTokenId).toBe(0);
    expect(tokenizer.bosTokenId).toBeNull();
  });

  it('keeps spaces and line ends, and encodes long texts', () => {
    const tokenizer = Tokenizer.fromCharacters('ab \n.');
    const text = ' a b .\n\n'.repeat(2000);
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
  });

  it('maps what it does not know to its unknown token', () => {
    expect([...Tokenizer.fromCharacters('ab').encode('azb')]).toEqual([2, 1, 3]);
  });

  it('refuses a special token that is named twice', () => {
    expect(() => Tokenizer.fromCharacters('a', { specialTokens: ['<|end|>'] })).toThrow(InvalidArgumentError);
  });

  it('writes files that read back the same', () => {
    const chatTemplate = "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ eos_token }}";
    const tokenizer = Tokenizer.fromCharacters('abc', { chatTemplate });
    const files = tokenizer.files();
    const again = new Tokenizer(
      JSON.parse(files['tokenizer.json']!),
      JSON.parse(files['tokenizer_config.json']!),
      new ChatTemplate(files['chat_template.jinja']!),
    );
    expect(again.files()).toEqual(files);
    expect(again.applyChatTemplate([{ role: 'user', content: 'ab' }])).toBe('ab<|end|>');
  });
});

describe('a chat template', () => {
  it('takes further variables, and can leave the generation prompt away', () => {
    const template = new ChatTemplate('{{ name }}{% if add_generation_prompt %}>{% endif %}');
    expect(template.render([], {}, { variables: { name: 'x' } })).toBe('x>');
    expect(template.render([], {}, { variables: { name: 'x' }, addGenerationPrompt: false })).toBe('x');
  });

  it('may refuse messages, and the error says why and where', () => {
    const template = new ChatTemplate("{{ raise_exception('roles must alternate') }}", 'm/chat_template.jinja');
    expect(() => template.render([], {})).toThrow(/m\/chat_template.jinja: roles must alternate/);
  });

  it('that is no template is a file error', () => {
    expect(() => new ChatTemplate('{% if %}', 'm/chat_template.jinja')).toThrow(FileFormatError);
  });

  it('refuses messages without text', () => {
    const template = new ChatTemplate('x');
    const bad = { role: 'user', content: null } as never;
    expect(() => template.render([bad], {})).toThrow(/messages\[0\].content/);
  });
});

it('names a tokenizer.json that is missing or broken', async () => {
  await expect(Tokenizer.load('test/fixtures')).rejects.toThrow(
    /test\/fixtures\/tokenizer.json: there is no such file/,
  );
  expect(() => new Tokenizer({ model: {} })).toThrow(FileFormatError);
});
