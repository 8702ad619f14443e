import { openDevice } from '../../backend/open-device.js';
import { resolveLaunchEnvironment } from '../../distributed/launch-environment.js';
import { referenceDeviceOfRank } from '../../distributed/rank-device.js';
import type { RolloutEngine } from '../../rollout/engine.js';
import type { Device } from '../../tensor.js';
import { grpoConfigSchema } from '../../trainer/config.js';
import { GRPOTrainer } from '../../trainer/grpo-trainer.js';
import { parseGRPOConfig } from '../../trainer/parse-config.js';
import { dryRun } from '../dry-run.js';
import { checkEngine, openEngine } from '../engine.js';
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
  const { worldSize, rank = 0, localRank = 0 } = resolveLaunchEnvironment(process.env) ?? {};
  const config = source.check(() => parseGRPOConfig(pickOptions(grpoConfigSchema, run), undefined, { worldSize }));
  source.check(() => checkEngine(run.engine, config));
  const { referenceDevices } = run;
  const referenceName = source.check(() => referenceDeviceOfRank({ referenceDevices, beta: config.beta }, localRank));
  const rewards = await source.checkAsync(() => loadRewards(run.rewards));
  if (dry) {
    const text = await source.checkAsync(() => dryRun(run, config, rewards, worldSize));
    if (rank === 0) process.stdout.write(text);
    return 0;
  }
  const { notes, ...data } = await source.checkAsync(() => readTrainData(run, config));
  for (const note of notes) process.stderr.write(`${note}\n`);
  let engine: RolloutEngine | undefined;
  let referenceDevice: Device | undefined;
  return carryOut(
    request,
    async (parts) => {
      const { policy } = parts;
      for (const reward of rewards)
        await reward.open?.(policy.device, { dtype: run.dtype, activations: run.activations });
      engine = run.engine ? openEngine(run.engine, policy, run.model, run.networkInterface) : undefined;
      // A device that computes the policy already keeps its reference without being opened again.
      if (referenceName && !policy.device.name.startsWith(`${referenceName} `)) {
        referenceDevice = await openDevice(referenceName);
      }
      return GRPOTrainer.create({ ...parts, ...config, ...data, rewards, engine, referenceDevice });
    },
    async () => {
      referenceDevice?.close();
      await engine?.close?.();
      for (const reward of rewards) await reward.close?.();
    },
  );
}
