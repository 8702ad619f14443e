import type { ChatMessage, PromptRecord } from '../../data/prompts.js';
import { parsePrompts } from '../../data/records.js';
import { GrpoError } from '../../errors.js';
import { type ModelFlags, readInput, withModel } from '../model.js';
import { RowOutput } from '../output.js';

interface GenerateFlags extends ModelFlags {
  prompt?: string[];
  data?: string;
  chat?: boolean;
  out?: string;
  maxNewTokens: number;
  n: number;
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  seed: number;
  stop?: string[];
  batchSize: number;
}

/** Prints completions: as text for `--prompt`, as JSONL for `--data` and `--out`. */
export async function generate(flags: GenerateFlags): Promise<void> {
  const records = await recordsOf(flags);
  const asText = flags.prompt !== undefined && flags.out === undefined;
  const output = new RowOutput(flags.out);
  await withModel(flags, async (policy) => {
    for (let begin = 0; begin < records.length; begin += flags.batchSize) {
      const batch = records.slice(begin, begin + flags.batchSize);
      const options = { ...flags, stop: flags.stop ?? [], seed: flags.seed + begin };
      const groups = await policy.generate(
        batch.map((record) => promptOf(record)),
        options,
      );
      for (const [i, completions] of groups.entries()) {
        for (const { text, stopReason, completionIds, logProbs } of completions) {
          if (asText) process.stdout.write(`${text}\n`);
          else
            output.write({
              ...batch[i],
              completion: text,
              stopReason,
              tokens: completionIds.length,
              logProb: sum(logProbs),
            });
        }
      }
    }
  });
  await output.finish();
}

async function recordsOf({ prompt, data, chat }: GenerateFlags): Promise<PromptRecord[]> {
  if ((prompt === undefined) === (data === undefined)) {
    throw new GrpoError('GRPO_CONFIG', 'generate needs either --prompt or --data');
  }
  if (data !== undefined) {
    if (chat) throw new GrpoError('GRPO_CONFIG', '--chat belongs to --prompt; a data file has messages instead');
    return parsePrompts(await readInput(data), data);
  }
  return prompt!.map((text) => (chat ? { messages: [{ role: 'user', content: text }] } : { prompt: text }));
}

function promptOf(record: PromptRecord): string | ChatMessage[] {
  return record.prompt ?? record.messages!;
}

function sum(values: Float32Array): number {
  return values.reduce((total, value) => total + value, 0);
}
