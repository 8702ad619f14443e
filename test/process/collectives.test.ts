import { describe, expect, test } from 'vitest';
import { runRanks } from './ranks.js';

describe('every collective gives the computed values', () => {
  test.each([1, 2, 4])(
    'on %i ranks',
    async (worldSize) => {
      const small = [0, 1, 5, 1000];
      const cases = [
        // The large one has more than one piece of a part on every rank.
        { dtype: 'f32', counts: [...small, 1_200_000] },
        { dtype: 'bf16', counts: small },
        { dtype: 'f16', counts: small },
        { dtype: 'i32', counts: small },
      ];
      const ended = await runRanks('everyCollective', worldSize, { argument: { cases } });
      for (const rank of ended) {
        expect(rank).toMatchObject({ code: 0, stderr: '' });
        expect(rank.reports).toEqual([{ checked: 136, liveTensors: 0, collectives: 137, sent: worldSize > 1 }]);
      }
    },
    60_000,
  );
});
