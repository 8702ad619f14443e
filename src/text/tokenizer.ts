import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import type { ChatMessage } from '../data/prompts.js';
import { FileFormatError, InvalidArgumentError, UnsupportedError } from '../errors.js';
import { type FileSystem, fileSystem } from '../platform/files.js';
import { readJsonObject } from '../platform/read-json.js';
import { ChatTemplate, type ChatTemplateOptions } from './chat-template.js';

type Json = Record<string, unknown>;

export interface CharacterTokenizerOptions {
  /** Ends a text. Default `<|end|>`, id 0. */
  endToken?: string;
  /** Stands for a character outside the alphabet. Default `<|unknown|>`, id 1. */
  unknownToken?: string;
  /** Further special tokens, with the ids from 2. */
  specialTokens?: readonly string[];
  /** Texts of several characters that are one token each, with the ids after the special tokens. */
  words?: readonly string[];
  /** Jinja source. */
  chatTemplate?: string;
}

/** A Hugging Face tokenizer: `tokenizer.json`, `tokenizer_config.json` and the chat template beside them. */
export class Tokenizer {
  readonly chatTemplate: ChatTemplate | null;
  /** Ids are below this. */
  readonly vocabSize: number;
  readonly #json: Json;
  readonly #config: Json;
  readonly #specialTokens: Readonly<Record<string, string>>;
  readonly #tokenizer: HuggingFaceTokenizer;

  /** From the parsed content of `tokenizer.json` and `tokenizer_config.json`. `origin` names the folder in errors. */
  constructor(json: Json, config: Json = {}, chatTemplate: ChatTemplate | null = null, origin = 'tokenizer.json') {
    this.#json = json;
    this.#config = config;
    this.#specialTokens = specialTokensOf(config);
    this.chatTemplate = chatTemplate;
    try {
      this.#tokenizer = new HuggingFaceTokenizer({ added_tokens: [], ...json }, config);
    } catch (error) {
      throw new FileFormatError(origin, `not a usable tokenizer: ${(error as Error).message}`, undefined, {
        cause: error,
      });
    }
    this.vocabSize = 1 + [...this.#tokenizer.get_vocab().values()].reduce((largest, id) => Math.max(largest, id), -1);
  }

  /** Reads a model folder. */
  static async load(folder: string, files: FileSystem = fileSystem()): Promise<Tokenizer> {
    const configFile = `${folder}/tokenizer_config.json`;
    const templateFile = `${folder}/chat_template.jinja`;
    const json = await readJsonObject(`${folder}/tokenizer.json`, files);
    const config = (await files.exists(configFile)) ? await readJsonObject(configFile, files) : {};
    const template = (await files.exists(templateFile))
      ? new ChatTemplate(await files.readText(templateFile), templateFile)
      : templateOf(config, configFile);
    return new Tokenizer(json, config, template, `${folder}/tokenizer.json`);
  }

  /** One token a character: enough for small tasks, and made without any file. */
  static fromCharacters(alphabet: Iterable<string>, options: CharacterTokenizerOptions = {}): Tokenizer {
    const {
      endToken = '<|end|>',
      unknownToken = '<|unknown|>',
      specialTokens = [],
      words = [],
      chatTemplate,
    } = options;
    const special = [endToken, unknownToken, ...specialTokens];
    const added = [...special, ...words];
    const tokens = [...added, ...new Set(alphabet)];
    const repeated = tokens.find((token, i) => tokens.indexOf(token) !== i);
    if (repeated !== undefined) throw new InvalidArgumentError('specialTokens', 'tokens named once', repeated);
    const json = {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: added.map((content, id) => ({
        id,
        content,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: id < special.length,
      })),
      normalizer: null,
      pre_tokenizer: null,
      post_processor: null,
      decoder: { type: 'Fuse' },
      model: {
        type: 'BPE',
        dropout: null,
        unk_token: unknownToken,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: false,
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges: [],
      },
    };
    const config = {
      tokenizer_class: 'PreTrainedTokenizerFast',
      eos_token: endToken,
      pad_token: endToken,
      unk_token: unknownToken,
      clean_up_tokenization_spaces: false,
    };
    return new Tokenizer(json, config, chatTemplate === undefined ? null : new ChatTemplate(chatTemplate));
  }

  get bosTokenId(): number | null {
    return this.#specialId('bos_token');
  }

  get eosTokenId(): number | null {
    return this.#specialId('eos_token');
  }

  /** The id of a token, special or not; null when the vocabulary lacks it. */
  tokenId(token: string): number | null {
    return this.#tokenizer.token_to_id(token) ?? null;
  }

  /** `addSpecialTokens` (default true): with what the tokenizer puts around a text, such as a begin token. */
  encode(text: string, { addSpecialTokens = true }: { addSpecialTokens?: boolean } = {}): Int32Array {
    if (typeof text !== 'string') throw new InvalidArgumentError('text', 'a string', text);
    const encoded = this.#tokenizer.encode(text, { add_special_tokens: addSpecialTokens });
    const { ids, tokens }: { ids: (number | undefined)[]; tokens: string[] } = encoded;
    const unknown = ids.indexOf(undefined);
    if (unknown >= 0) throw new InvalidArgumentError('text', 'text of the vocabulary', tokens[unknown]);
    return Int32Array.from(ids as number[]);
  }

  /** `skipSpecialTokens` (default true) leaves out tokens such as the end token. */
  decode(ids: Iterable<number>, { skipSpecialTokens = true }: { skipSpecialTokens?: boolean } = {}): string {
    const list = [...ids];
    if (list.length === 0) return '';
    return this.#tokenizer.decode(list, {
      skip_special_tokens: skipSpecialTokens,
      clean_up_tokenization_spaces: this.#config.clean_up_tokenization_spaces === true,
    });
  }

  /** The text of a chat, as the model's template writes it. */
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions): string {
    if (!this.chatTemplate) {
      const hint = 'Give prompts as text, or add a chat_template.jinja to the folder.';
      throw new UnsupportedError('Chat messages', 'a tokenizer without a chat template', hint);
    }
    return this.chatTemplate.render(messages, this.#specialTokens, options);
  }

  /** The ids of a prompt: text, chat messages or ids as they are. */
  encodePrompt(prompt: string | readonly ChatMessage[] | Int32Array | readonly number[]): Int32Array {
    if (typeof prompt === 'string') return this.encode(prompt);
    if (prompt instanceof Int32Array) return prompt;
    if (!Array.isArray(prompt)) throw new InvalidArgumentError('prompt', 'text, messages or token ids', prompt);
    if (prompt.every((part) => typeof part === 'number')) return Int32Array.from(prompt as number[]);
    // The template writes the special tokens itself.
    return this.encode(this.applyChatTemplate(prompt as ChatMessage[]), { addSpecialTokens: false });
  }

  /** The files of the tokenizer, by name, for a model folder. */
  files(): Record<string, string> {
    const { chat_template: _, ...config } = this.#config;
    return {
      'tokenizer.json': `${JSON.stringify(this.#json, null, 2)}\n`,
      'tokenizer_config.json': `${JSON.stringify(config, null, 2)}\n`,
      ...(this.chatTemplate ? { 'chat_template.jinja': this.chatTemplate.source } : {}),
    };
  }

  #specialId(name: string): number | null {
    const token = this.#specialTokens[name];
    return token === undefined ? null : this.tokenId(token);
  }
}

/** `bos_token` and such, written as a string or as `{ content }`. */
function specialTokensOf(config: Json): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const name of ['bos_token', 'eos_token', 'pad_token', 'unk_token']) {
    const value = config[name];
    const content = typeof value === 'object' && value !== null ? (value as Json).content : value;
    if (typeof content === 'string') tokens[name] = content;
  }
  return tokens;
}

/** The template inside `tokenizer_config.json`: a string, or a list of named ones of which `default` counts. */
function templateOf(config: Json, file: string): ChatTemplate | null {
  const value = config.chat_template;
  if (value === undefined || value === null) return null;
  const named = Array.isArray(value) ? value.find((entry: Json) => entry?.name === 'default')?.template : value;
  if (typeof named !== 'string')
    throw new FileFormatError(file, 'expected a text or a list with "default" for chat_template');
  return new ChatTemplate(named, file);
}
