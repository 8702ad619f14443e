import { describe, expect, it } from 'vitest';
import {
  conversationOf,
  openThinking,
  readPrompt,
  renderPrompt,
  type TemplateFamily,
} from '../../../../src/recipes/raif/templates.js';

const families: TemplateFamily[] = ['qwen', 'deepseek', 'llama3', 'mistral', 'base'];

describe.each(families)('the template of %s', (family) => {
  const prompt = renderPrompt(family, { system: 'Be brief.', user: 'Name a tree.\n\nOne word.' });

  it.each(['', '<think>', '<think>\n', '<think>\n\n', '<think>\n\n</think>\n'])('is known before %j', (ending) => {
    expect(readPrompt(prompt + ending)).toEqual({ family, replyStart: prompt.length });
  });

  it('gives a judge the whole conversation, without the opened reply', () => {
    const opened = openThinking(prompt);
    const messages = conversationOf(opened, readPrompt(opened)!);
    const text = messages.map(({ content }) => content).join('|');
    expect(text).toBe(
      family === 'mistral' ? 'Be brief.\n\nName a tree.\n\nOne word.' : 'Be brief.|Name a tree.\n\nOne word.',
    );
    expect(messages.at(-1)!.role).toBe('user');
  });
});

it('writes Llama prompts with the newlines of the official template, and reads the released ones without', () => {
  expect(renderPrompt('llama3', { user: 'Hi' })).toBe(
    '<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n',
  );
  const released =
    '<|begin_of_text|><|start_header_id|>user<|end_header_id|>Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>';
  const read = readPrompt(`${released}<think>\n`)!;
  expect(read).toEqual({ family: 'llama3', replyStart: released.length });
  expect(conversationOf(released, read)).toEqual([{ role: 'user', content: 'Hi' }]);
});

it('keeps earlier turns for the judge', () => {
  const prompt =
    '<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n';
  expect(conversationOf(prompt, readPrompt(prompt)!).map(({ role, content }) => `${role} ${content}`)).toEqual([
    'user A',
    'assistant B',
    'user C',
  ]);
});

it.each([
  ['User and Assistant talk.\nUser: Hi\nAssistant:', ['User and Assistant talk.', 'Hi']],
  ['<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Hi[/INST]', ['[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT]', 'Hi']],
  ['<s>[INST]A <s>b</s>[/INST] C</s>[INST]D[/INST]', ['A <s>b</s>', 'C', 'D']],
])('loses nothing that was said: %j', (prompt, expected) => {
  expect(conversationOf(prompt, readPrompt(prompt)!).map(({ content }) => content)).toEqual(expected);
});

it('opens the thinking once', () => {
  expect(openThinking('Assistant:')).toBe('Assistant:<think>\n');
  for (const opened of ['Assistant:<think>', 'Assistant:<think>\n', 'Assistant:<think>\n\n']) {
    expect(openThinking(opened)).toBe(opened);
  }
});

it('knows no template in other texts', () => {
  expect(readPrompt('What is 2 + 2?<think>\n')).toBeUndefined();
});
