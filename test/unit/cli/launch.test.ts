import { describe, expect, it } from 'vitest';
import { launchCommand } from '../../../src/cli/commands/launch.js';

const flags = { nproc: 2, nnodes: 1, nodeRank: 0, maxRestarts: 0, grace: 1 };

describe('grpo launch', () => {
  it.each([
    [[], {}, /nothing to launch/],
    [['generate'], {}, /generate cannot be launched; train and sft can/],
    [['train'], { nproc: 0 }, /--nproc: must be at least 1, got 0/],
    [['train'], { maxRestarts: -1 }, /--max-restarts: must be at least 0, got -1/],
    [['train'], { nnodes: 2 }, /--master-addr: several machines need the address of the one with --node-rank 0/],
    [['train'], { nodeRank: 1 }, /--node-rank: must be below --nnodes 1, got 1/],
    [['train'], { masterPort: 70_000 }, /--master-port: must be from 1 to 65535, got 70000/],
  ])('refuses %j with %j before it starts anything', async (args, changed, expected) => {
    const refused = launchCommand(args, { ...flags, ...changed });
    await expect(refused).rejects.toMatchObject({ code: 'GRPO_CONFIG', message: expect.stringMatching(expected) });
  });
});
