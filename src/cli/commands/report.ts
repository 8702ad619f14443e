import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { GrpoError } from '../../errors.js';
import { metricsFile } from '../../tracking/jsonl.js';
import { writeReport } from '../../tracking/report/report.js';

export async function report(folder: string): Promise<void> {
  const isRun = await stat(join(folder, metricsFile)).then(
    () => true,
    () => false,
  );
  if (!isRun) throw new GrpoError('GRPO_CONFIG', `${folder} is not the folder of a run: it has no ${metricsFile}`);
  process.stdout.write(`${await writeReport(folder)}\n`);
}
