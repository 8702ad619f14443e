import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import type { CausalLM } from '../../../src/models/causal-lm.js';
import '../../../src/platform/node.js';
import { type DecodeRow, DecodeWave } from '../../../src/rollout/decode-wave.js';
import type { Device } from '../../../src/tensor.js';
import { tinyPolicy } from '../../tiny-model.js';

const sampling = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  seed: [5, 0] as [number, number],
  workspaceBytes: 2 ** 20,
};

describe('a wave', () => {
  let device: Device;
  let policy: CausalLM;
  beforeAll(async () => {
    device = await openDevice('cpu', { matmul: 'builtin', threads: 2 });
    policy = tinyPolicy({ device });
  });
  afterAll(() => {
    policy.dispose();
    expect(device.memory().liveTensors).toBe(0);
    device.close();
  });

  const rowsOf = (limits: readonly number[]): DecodeRow[] => {
    const prompt = policy.tokenizer.encode('12+7=');
    return limits.map((limit, sequence) => ({ prompt, sequence, limit, ids: [], logProbs: [], end: null }));
  };

  /** Decodes the rows to their limits; gives how often a step was recorded. */
  async function decode(rows: readonly DecodeRow[], onToken = () => {}): Promise<number> {
    const record = vi.spyOn(device, 'record');
    const wave = new DecodeWave(device, policy.decoder, rows, sampling);
    try {
      await wave.run((row, id, logProb) => {
        row.ids.push(id);
        row.logProbs.push(logProb);
        if (row.ids.length === row.limit) row.end = { reason: 'length', text: null };
        onToken();
      });
      return record.mock.calls.length;
    } finally {
      wave.dispose();
      record.mockRestore();
    }
  }

  it('records its step once while its rows stay, and takes no memory for more tokens', async () => {
    const live: number[] = [];
    const rows = rowsOf([60, 60, 60]);
    expect(await decode(rows, () => live.push(device.memory().liveTensors))).toBe(1);
    expect(rows.every(({ ids }) => ids.length === 60)).toBe(true);
    expect(live).toHaveLength(180);
    // Those of the prompts go with the first token.
    expect(new Set(live.slice(3)).size).toBe(1);
  });

  it('may have more rows than a call can have arguments', async () => {
    const rows = rowsOf(new Array(130_000).fill(2));
    expect(await decode(rows)).toBe(1);
    expect(rows.every(({ ids }) => ids.length === 2)).toBe(true);
  });

  it('records none for rows of one token', async () => {
    expect(await decode(rowsOf([1, 1]))).toBe(0);
  });

  it.each([
    // Nine rows wait for the one that goes on: after a step they have cost more than it.
    ['most end at once', [...Array(9).fill(5), 40], 2],
    // One row of ten may be computed in vain for nine steps.
    ['one ends shortly before the others', [33, ...Array(9).fill(40)], 1],
    ['one ends early', [5, ...Array(9).fill(40)], 2],
    ['one after the other', [2, 3, 4, 5, 6, 7, 8, 9, 10, 11], 4],
  ])('records it again when rows that ended have cost a step: %s', async (_, limits, recordings) => {
    const together = rowsOf(limits);
    expect(await decode(together)).toBe(recordings);
    for (const row of rowsOf(limits)) {
      await decode([row]);
      expect(together[row.sequence]).toEqual(row);
    }
  });

  it('that is given up leaves nothing behind', async () => {
    const before = device.memory().liveTensors;
    let tokens = 0;
    const failing = decode(rowsOf([20, 20]), () => {
      if (++tokens === 9) throw new Error('on purpose');
    });
    await expect(failing).rejects.toThrow('on purpose');
    expect(device.memory().liveTensors).toBe(before);
  });
});
