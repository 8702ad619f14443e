import { randomUUID } from 'node:crypto';
import type { TokenEvent } from '../rollout/decode-scheduler.js';
import type { AlternativeToken } from '../rollout/likeliest-tokens.js';
import type { Tokenizer } from '../text/tokenizer.js';
import type { ServedRequest } from './requests.js';

/** A token with its log-prob; null for the first of a prompt, which nothing predicts. */
export interface ScoredToken {
  id: number;
  logProb: number | null;
  alternatives: AlternativeToken[];
}

/** What is known of one choice of an answer. */
export interface Choice {
  index: number;
  text: string;
  tokens: ScoredToken[];
  finishReason: 'stop' | 'length' | null;
  promptIds: Int32Array;
  /** Which weights sampled it. */
  version: number | null;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

export function scoredToken({ id, logProb, alternatives }: TokenEvent): ScoredToken {
  return { id, logProb, alternatives };
}

export function usageOf(promptTokens: number, completionTokens: number): Usage {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  };
}

/** Writes answers to one request, in the form of its API. */
export class ResponseWriter {
  readonly #request: ServedRequest;
  readonly #tokenizer: Tokenizer;
  readonly #head: object;
  readonly #id: string;

  constructor(request: ServedRequest, tokenizer: Tokenizer) {
    this.#request = request;
    this.#tokenizer = tokenizer;
    this.#id = `${request.kind === 'chat' ? 'chatcmpl' : 'cmpl'}-${randomUUID()}`;
    this.#head = { created: Math.floor(Date.now() / 1000), model: request.model };
  }

  whole(choices: readonly Choice[], usage: Usage): object {
    const chat = this.#request.kind === 'chat';
    return {
      id: this.#id,
      object: chat ? 'chat.completion' : 'text_completion',
      ...this.#head,
      choices: choices.map((choice) => ({
        index: choice.index,
        ...(chat ? { message: { role: 'assistant', content: choice.text, refusal: null } } : { text: choice.text }),
        ...this.#common(choice),
      })),
      usage,
    };
  }

  /** A part of a streamed answer: `choice` holds what is new. */
  chunk(choice: Choice, first: boolean): object {
    const chat = this.#request.kind === 'chat';
    const delta = { ...(first ? { role: 'assistant' } : {}), content: choice.text };
    return this.#chunk([
      { index: choice.index, ...(chat ? { delta } : { text: choice.text }), ...this.#common(choice) },
    ]);
  }

  usageChunk(usage: Usage): object {
    return { ...this.#chunk([]), usage };
  }

  #chunk(choices: object[]): object {
    const object = this.#request.kind === 'chat' ? 'chat.completion.chunk' : 'text_completion';
    return { id: this.#id, object, ...this.#head, choices };
  }

  #common({ tokens, finishReason, promptIds, version }: Choice): object {
    const { logProbs, returnTokenIds, kind, echo } = this.#request;
    const form = kind === 'chat' ? this.#chatLogProbs(tokens) : this.#textLogProbs(tokens);
    const own = echo ? tokens.slice(promptIds.length) : tokens;
    const ids = { token_ids: own.map(({ id }) => id), prompt_token_ids: [...promptIds] };
    return {
      logprobs: logProbs === null ? null : form,
      finish_reason: finishReason,
      weights_version: version,
      ...(returnTokenIds ? ids : {}),
    };
  }

  #chatLogProbs(tokens: readonly ScoredToken[]): object {
    const entry = (id: number, logprob: number | null) => {
      const token = this.#text(id);
      return { token, logprob, bytes: [...new TextEncoder().encode(token)] };
    };
    const content = tokens.map(({ id, logProb, alternatives }) => ({
      ...entry(id, logProb),
      top_logprobs: alternatives.map((token) => entry(token.id, token.logProb)),
    }));
    return { content, refusal: null };
  }

  #textLogProbs(tokens: readonly ScoredToken[]): object {
    const texts = tokens.map(({ id }) => this.#text(id));
    const offsets: number[] = [];
    texts.reduce((offset, text) => {
      offsets.push(offset);
      return offset + text.length;
    }, 0);
    return {
      tokens: texts,
      token_logprobs: tokens.map(({ logProb }) => logProb),
      top_logprobs: tokens.map(({ alternatives }) =>
        alternatives.length === 0
          ? null
          : Object.fromEntries(alternatives.map(({ id, logProb }) => [this.#text(id), logProb])),
      ),
      text_offset: offsets,
    };
  }

  #text(id: number): string {
    return this.#tokenizer.decode([id], { skipSpecialTokens: false });
  }
}

/**
 * Tells which text of a growing completion is final: what later tokens may still change or cut is held back. Decodes the
 * last tokens only, beside a few before them, whose text tells how the new ones join.
 */
export class TextStream {
  readonly #tokenizer: Tokenizer;
  readonly #stop: readonly string[];
  /** Text of the tokens before `#read`, and where the tokens begin that are decoded with what comes. */
  #text = '';
  #window = 0;
  #read = 0;
  #sent = '';

  constructor(tokenizer: Tokenizer, stop: readonly string[]) {
    this.#tokenizer = tokenizer;
    this.#stop = stop;
  }

  /** The text that `event` adds. */
  next({ ids, end }: TokenEvent): string {
    if (!end) this.#decode(ids);
    const text = end ? end.text : this.#settled();
    if (text.length <= this.#sent.length || !text.startsWith(this.#sent)) return '';
    const fresh = text.slice(this.#sent.length);
    this.#sent = text;
    return fresh;
  }

  #decode(ids: readonly number[]): void {
    const known = this.#tokenizer.decode(ids.slice(this.#window, this.#read));
    const all = this.#tokenizer.decode(ids.slice(this.#window));
    // A character that is not whole yet ends in the replacement character.
    if (all.length <= known.length || all.endsWith('\ufffd')) return;
    this.#text += all.slice(known.length);
    this.#window = this.#read;
    this.#read = ids.length;
  }

  /** Without what may be the start of a stop string. */
  #settled(): string {
    let held = 0;
    for (const stop of this.#stop) {
      for (let length = Math.min(stop.length - 1, this.#text.length); length > held; length--) {
        if (this.#text.endsWith(stop.slice(0, length))) held = length;
      }
    }
    return this.#text.slice(0, this.#text.length - held);
  }
}
