import { z } from 'zod';
import type { ChatMessage } from '../data/prompts.js';
import { GrpoError } from '../errors.js';
import type { CausalLM, LoadOptions } from '../models/causal-lm.js';
import { endpointJudge, type JudgeAnswer, type JudgeModel, localJudge, type Verdicts } from '../rewards/judge.js';
import type { Device } from '../tensor.js';
import { Tokenizer } from '../text/tokenizer.js';
import { checkServer, clientOptions, report, serverShape } from './server-options.js';

/** Options that make sense with a `url` only. */
const endpointShape = {
  tokenizer: z.string().min(1).optional(),
  maxTokens: z.int().positive().optional(),
  method: z.enum(['log-probs', 'text']).optional(),
  maxReplyTokens: z.int().positive().optional(),
  apiKeyEnv: serverShape.apiKeyEnv,
};

/** A model that judges: `model` is its name at `url`, or without `url` its folder. */
export const judgeShape = { model: z.string().min(1), url: serverShape.url.optional(), ...endpointShape };

export type JudgeSource = z.output<z.ZodObject<typeof judgeShape>>;

export function checkJudge(source: JudgeSource, context: z.RefinementCtx): void {
  if (source.url === undefined) {
    for (const option of Object.keys(endpointShape) as (keyof typeof endpointShape)[]) {
      if (source[option] !== undefined) report(context, option, 'needs url; without it the judge is a local folder');
    }
    return;
  }
  checkServer(source, context);
  if (source.tokenizer !== undefined && source.maxTokens === undefined) {
    report(context, 'maxTokens', 'tokenizer needs it: the longest prompt that the judge takes');
  }
  if (source.method === 'log-probs' && source.tokenizer === undefined) {
    report(context, 'tokenizer', "method log-probs needs it: the folder with the judge's own");
  }
}

/** A judge that a configuration describes. It reads its files when it is opened, so that a plan needs none of them. */
export class ConfiguredJudge implements JudgeModel {
  readonly #source: JudgeSource;
  #judge: JudgeModel | null = null;
  #local: CausalLM | null = null;

  constructor(source: JudgeSource) {
    this.#source = source;
  }

  /** A local judge computes on the device of the run. */
  async open(device: Device, formats: Pick<LoadOptions, 'dtype' | 'activations'>): Promise<void> {
    const { url, model, tokenizer: folder, apiKeyEnv, ...options } = this.#source;
    if (url === undefined) {
      // Loaded here since the help, which names this reward, needs no model.
      const { CausalLM } = await import('../models/causal-lm.js');
      this.#local = await CausalLM.load(model, { device, ...formats });
      this.#judge = localJudge(this.#local);
      return;
    }
    const tokenizer = folder === undefined ? undefined : await Tokenizer.load(folder);
    this.#judge = endpointJudge({ ...options, ...clientOptions({ apiKeyEnv }), url, model, tokenizer });
  }

  answer(messages: readonly ChatMessage[], verdicts: Verdicts, signal: AbortSignal): Promise<JudgeAnswer> {
    if (!this.#judge) throw new GrpoError('GRPO_JUDGE', 'The judge was not opened');
    return this.#judge.answer(messages, verdicts, signal);
  }

  async close(): Promise<void> {
    this.#local?.dispose();
    this.#local = null;
    this.#judge = null;
  }
}
