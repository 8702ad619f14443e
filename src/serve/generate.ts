import type { TokenEvent } from '../rollout/decode-scheduler.js';
import type { ServedRequest } from './requests.js';
import { type Choice, ResponseWriter, scoredToken, TextStream, type Usage, usageOf } from './responses.js';
import type { ServedModel } from './served-model.js';

/** Answers a request at once, when all of it is known. */
export async function generateWhole(model: ServedModel, request: ServedRequest, signal: AbortSignal): Promise<object> {
  const { prompts, sampling } = request;
  const choices = prompts.flatMap(({ ids }, p) =>
    Array.from({ length: sampling.n! }, (_, sample) => emptyChoice(p * sampling.n! + sample, ids, model)),
  );
  const record = (choice: Choice, event: TokenEvent) => {
    if (choice.tokens.length === 0) choice.version = model.version;
    choice.tokens.push(scoredToken(event));
    choice.text = event.end?.text ?? '';
    choice.finishReason = event.end?.reason ?? null;
  };
  if (request.generates) await submitAll(model, request, signal, (index, event) => record(choices[index]!, event));
  const usage = usageOfChoices(request, choices);
  if (request.echo) for (const choice of choices) await prependPrompt(model, request, choice);
  return new ResponseWriter(request, model.policy.tokenizer).whole(choices, usage);
}

/** Answers a request token by token. `begin` is called when nothing speaks against it any more. */
export async function generateStream(
  model: ServedModel,
  request: ServedRequest,
  signal: AbortSignal,
  { begin, send }: { begin: () => void; send: (data: object) => void },
): Promise<void> {
  const { prompts, sampling } = request;
  const { tokenizer } = model.policy;
  const writer = new ResponseWriter(request, tokenizer);
  const streams = new Map<number, { text: TextStream; choice: Choice }>();
  let tokens = 0;
  const done = submitAll(model, request, signal, (index, event) => {
    const known = streams.get(index);
    const stream = known ?? {
      text: new TextStream(tokenizer, sampling.stop ?? []),
      choice: emptyChoice(index, prompts[Math.floor(index / sampling.n!)]!.ids, model),
    };
    streams.set(index, stream);
    tokens++;
    const fresh = {
      text: stream.text.next(event),
      tokens: [scoredToken(event)],
      finishReason: event.end?.reason ?? null,
    };
    send(writer.chunk({ ...stream.choice, ...fresh }, !known));
  });
  begin();
  await done;
  if (request.includeUsage) send(writer.usageChunk(usageOf(promptTokens(request), tokens)));
}

/** Submits every prompt; one that is refused takes the others back. */
function submitAll(
  { scheduler }: ServedModel,
  { prompts, sampling }: ServedRequest,
  signal: AbortSignal,
  onToken: (index: number, event: TokenEvent) => void,
): Promise<unknown> {
  const own = new AbortController();
  const submitted: Promise<unknown>[] = [];
  try {
    for (const [promptIndex, { ids }] of prompts.entries()) {
      const begin = promptIndex * sampling.n!;
      const completions = scheduler.submit(ids, {
        ...sampling,
        promptIndex,
        signal: AbortSignal.any([signal, own.signal]),
        onToken: (event) => onToken(begin + event.sample, event),
      });
      submitted.push(completions);
    }
  } catch (error) {
    own.abort(error);
    for (const completions of submitted) completions.catch(() => {});
    throw error;
  }
  return Promise.all(submitted);
}

/** Puts the prompt, with its log-probs if they are wanted, before a choice. */
async function prependPrompt(model: ServedModel, request: ServedRequest, choice: Choice): Promise<void> {
  const { ids, text } = request.prompts[Math.floor(choice.index / request.sampling.n!)]!;
  const scores = request.logProbs === null ? null : await model.score(ids);
  if (scores && !request.generates) choice.version = scores.version;
  const prompt = Array.from(ids, (id, i) => ({ id, logProb: scores?.logProbs[i] ?? null, alternatives: [] }));
  choice.tokens = [...prompt, ...choice.tokens];
  choice.text = (text ?? model.policy.tokenizer.decode(ids)) + choice.text;
  choice.finishReason ??= 'length';
}

function emptyChoice(index: number, promptIds: Int32Array, { version }: ServedModel): Choice {
  return { index, promptIds, text: '', tokens: [], finishReason: null, version };
}

function promptTokens({ prompts }: ServedRequest): number {
  return prompts.reduce((sum, { ids }) => sum + ids.length, 0);
}

function usageOfChoices(request: ServedRequest, choices: readonly Choice[]): Usage {
  const completion = choices.reduce((sum, { tokens }) => sum + tokens.length, 0);
  return usageOf(promptTokens(request), completion);
}
