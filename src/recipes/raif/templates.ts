import type { ChatMessage } from '../../data/prompts.js';

/** The five ways in which RAIF's prompts are written. */
export type TemplateFamily = 'qwen' | 'deepseek' | 'llama3' | 'mistral' | 'base';

interface Template {
  /** What stands right before a reply. The first one is the official form. */
  headers: readonly string[];
  render(system: string | undefined, user: string): string;
  /** The messages of a prompt, without the opened reply. */
  messages(text: string): ChatMessage[];
  /** Whether the answer stands in `<answer>` tags; else it is all that comes after the thinking. */
  answerTags: boolean;
}

const deepseek = {
  begin: '<｜begin▁of▁sentence｜>',
  end: '<｜end▁of▁sentence｜>',
  user: '<｜User｜>',
  assistant: '<｜Assistant｜>',
};

const templates: Record<TemplateFamily, Template> = {
  qwen: {
    headers: ['<|im_start|>assistant\n'],
    render: (system, user) =>
      `${[...(system === undefined ? [] : [['system', system]]), ['user', user]]
        .map(([role, text]) => `<|im_start|>${role}\n${text}<|im_end|>\n`)
        .join('')}<|im_start|>assistant\n`,
    messages: (text) => turns(text, /<\|im_start\|>(\w+)\n([\s\S]*?)<\|im_end\|>/g),
    answerTags: true,
  },
  deepseek: {
    headers: [deepseek.assistant],
    render: (system = '', user) => `${deepseek.begin}${system}${deepseek.user}${user}${deepseek.assistant}`,
    messages: (text) => {
      const marks = new RegExp(`(${deepseek.user}|${deepseek.assistant})`);
      const plain = text.replaceAll(deepseek.begin, '').replaceAll(deepseek.end, '');
      return marked(plain, marks, (mark) => (mark === deepseek.user ? 'user' : 'assistant'));
    },
    answerTags: false,
  },
  llama3: {
    headers: ['<|start_header_id|>assistant<|end_header_id|>\n\n', '<|start_header_id|>assistant<|end_header_id|>'],
    render: (system, user) => {
      const turn = (role: string, text: string) => `<|start_header_id|>${role}<|end_header_id|>\n\n${text}<|eot_id|>`;
      const start = system === undefined ? '' : turn('system', system);
      return `<|begin_of_text|>${start}${turn('user', user)}<|start_header_id|>assistant<|end_header_id|>\n\n`;
    },
    messages: (text) => turns(text, /<\|start_header_id\|>(\w+)<\|end_header_id\|>(?:\n\n)?([\s\S]*?)<\|eot_id\|>/g),
    answerTags: true,
  },
  mistral: {
    headers: ['[/INST]'],
    render: (system, user) => `<s>[INST]${system === undefined ? '' : `${system}\n\n`}${user}[/INST]`,
    // System and user text may share a turn; where one ends cannot be told.
    messages: (text) => {
      const plain = text.replace(/^<s>|(?:<\/s>)?\s*(?:<s>)?(?=\[INST\])/g, '');
      return marked(plain, /(\[INST\]|\[\/INST\])/, (mark) => (mark === '[INST]' ? 'user' : 'assistant'));
    },
    answerTags: true,
  },
  base: {
    headers: ['Assistant:'],
    render: (system, user) => `${system === undefined ? '' : `System:${system}\n`}User:${user}\nAssistant:`,
    messages: (text) => marked(text, /^(System|User|Assistant):/m, (mark) => mark.toLowerCase()),
    answerTags: true,
  },
};

const thinkEndings = ['<think>\n\n</think>\n', '<think>\n\n', '<think>\n', '<think>'];

export interface ReadPrompt {
  family: TemplateFamily;
  /** Where the reply begins: at the `<think>` that the prompt opens, or at its end. */
  replyStart: number;
}

/** Recognises the template of a rendered prompt by what stands before the reply; undefined when none fits. */
export function readPrompt(prompt: string): ReadPrompt | undefined {
  const ending = thinkEndings.find((text) => prompt.endsWith(text)) ?? '';
  const replyStart = prompt.length - ending.length;
  const header = prompt.slice(0, replyStart);
  for (const [family, { headers }] of Object.entries(templates) as [TemplateFamily, Template][]) {
    if (headers.some((text) => header.endsWith(text))) return { family, replyStart };
  }
  return undefined;
}

/** The prompt with its thinking opened, unless it is already. */
export function openThinking(prompt: string): string {
  return thinkEndings.slice(1).some((ending) => prompt.endsWith(ending)) ? prompt : `${prompt}<think>\n`;
}

export function answersInTags(family: TemplateFamily): boolean {
  return templates[family].answerTags;
}

/** A prompt in the official form of a family, its reply not yet begun. */
export function renderPrompt(family: TemplateFamily, { system, user }: { system?: string; user: string }): string {
  return templates[family].render(system, user);
}

/** Everything that was said before the reply, for a judge. */
export function conversationOf(prompt: string, { family, replyStart }: ReadPrompt): ChatMessage[] {
  return templates[family].messages(prompt.slice(0, replyStart)).filter(({ content }) => content.trim() !== '');
}

function message(role: string, content: string): ChatMessage {
  return { role, content };
}

function turns(text: string, pattern: RegExp): ChatMessage[] {
  return [...text.matchAll(pattern)].map(([, role, content]) => message(role!, content!));
}

/** What stands before the first mark is the system's; each mark opens a message. `marks` captures the mark. */
function marked(text: string, marks: RegExp, roleOf: (mark: string) => string): ChatMessage[] {
  const [before, ...rest] = text.split(marks);
  const opened = rest.flatMap((mark, i) => (i % 2 === 0 ? [message(roleOf(mark), rest[i + 1]!.trim())] : []));
  return [message('system', before!.trim()), ...opened];
}
