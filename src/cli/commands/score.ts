import { parseDemonstrations } from '../../data/records.js';
import { type ModelFlags, readInput, withModel } from '../model.js';
import { RowOutput } from '../output.js';

interface ScoreFlags extends ModelFlags {
  data: string;
  out?: string;
  temperature: number;
  batchSize: number;
}

/**
 * For each row of the data: `completionIds`, `tokens` (their texts), `logProbs` (one a token, in nats) and their sum. The
 * completion is encoded by itself, without special tokens; no end token is added.
 */
export async function score(flags: ScoreFlags): Promise<void> {
  const records = parseDemonstrations(await readInput(flags.data), flags.data);
  const output = new RowOutput(flags.out);
  await withModel(flags, async (policy) => {
    const { tokenizer } = policy;
    for (let begin = 0; begin < records.length; begin += flags.batchSize) {
      const batch = records.slice(begin, begin + flags.batchSize);
      const pairs = batch.map((record) => ({
        promptIds: tokenizer.encodePrompt(record.prompt ?? record.messages!),
        completionIds: tokenizer.encode(record.completion, { addSpecialTokens: false }),
      }));
      const logProbs = await policy.logProbs(pairs, { temperature: flags.temperature });
      for (const [i, { promptIds, completionIds }] of pairs.entries()) {
        output.write({
          ...batch[i],
          promptTokens: promptIds.length,
          completionIds: [...completionIds],
          tokens: [...completionIds].map((id) => tokenizer.decode([id], { skipSpecialTokens: false })),
          logProbs: [...logProbs[i]!],
          logProb: logProbs[i]!.reduce((total, value) => total + value, 0),
        });
      }
    }
  });
  await output.finish();
}
