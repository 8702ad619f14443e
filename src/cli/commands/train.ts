import { grpoConfigSchema } from '../../trainer/config.js';
import { GRPOTrainer } from '../../trainer/grpo-trainer.js';
import { parseGRPOConfig } from '../../trainer/parse-config.js';
import { dryRun } from '../dry-run.js';
import { loadRewards } from '../rewards.js';
import { trainRunSchema } from '../run-config.js';
import { readTrainData } from '../train-data.js';
import { carryOut, pickOptions, readRequest } from '../training.js';

export async function train(
  configPath: string | undefined,
  { dryRun: dry = false, ...flags }: Readonly<Record<string, unknown>>,
): Promise<number> {
  const request = await readRequest('train', trainRunSchema, configPath, flags);
  const { source, run } = request;
  const config = source.check(() => parseGRPOConfig(pickOptions(grpoConfigSchema, run)));
  const rewards = await source.checkAsync(() => loadRewards(run.rewards));
  if (dry) {
    process.stdout.write(await source.checkAsync(() => dryRun(run, config, rewards)));
    return 0;
  }
  const { notes, ...data } = await source.checkAsync(() => readTrainData(run, config));
  for (const note of notes) process.stderr.write(`${note}\n`);
  return carryOut(request, (parts) => GRPOTrainer.create({ ...parts, ...config, ...data, rewards }));
}
