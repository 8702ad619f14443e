import { parsePrompts } from '../../data/records.js';
import { grpoConfigSchema } from '../../trainer/config.js';
import { GRPOTrainer } from '../../trainer/grpo-trainer.js';
import { parseGRPOConfig } from '../../trainer/parse-config.js';
import { loadRewards } from '../rewards.js';
import { trainRunSchema } from '../run-config.js';
import { carryOut, pickOptions, readRequest, readRows } from '../training.js';

export async function train(configPath: string | undefined, flags: Readonly<Record<string, unknown>>): Promise<number> {
  const request = await readRequest('train', trainRunSchema, configPath, flags);
  const { source, run } = request;
  const config = source.check(() => parseGRPOConfig(pickOptions(grpoConfigSchema, run)));
  const rewards = await source.checkAsync(() => loadRewards(run.rewards));
  const dataset = await readRows(run.dataset, parsePrompts);
  const evalRows = await readRows(run.evalDataset, parsePrompts);
  const evalDataset = evalRows.length > 0 ? evalRows : undefined;
  return carryOut(request, (parts) => GRPOTrainer.create({ ...parts, ...config, rewards, dataset, evalDataset }));
}
