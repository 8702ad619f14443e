import { parseDemonstrations } from '../../data/records.js';
import { sftConfigSchema } from '../../trainer/config.js';
import { parseSFTConfig } from '../../trainer/parse-config.js';
import { SFTTrainer } from '../../trainer/sft-trainer.js';
import { sftRunSchema } from '../run-config.js';
import { carryOut, pickOptions, readRequest, readRows } from '../training.js';

export async function sft(configPath: string | undefined, flags: Readonly<Record<string, unknown>>): Promise<number> {
  const request = await readRequest('sft', sftRunSchema, configPath, flags);
  const { source, run } = request;
  const config = source.check(() => parseSFTConfig(pickOptions(sftConfigSchema, run)));
  const dataset = await readRows(run.dataset, parseDemonstrations);
  const evalRows = await readRows(run.evalDataset, parseDemonstrations);
  const evalDataset = evalRows.length > 0 ? evalRows : undefined;
  return carryOut(request, (parts) => SFTTrainer.create({ ...parts, ...config, dataset, evalDataset }));
}
