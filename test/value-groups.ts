import type { ProcessGroup } from '../src/distributed/process-group.js';
import { singleProcessGroup } from '../src/distributed/single-process-group.js';
import type { Device } from '../src/tensor.js';

/** Ranks in one process that exchange values, but no tensors. */
export function valueGroups(worldSize: number, device: Device): ProcessGroup[] {
  const rounds: { values: string[]; arrived: number; done: () => void; all: Promise<void> }[] = [];
  return Array.from({ length: worldSize }, (_, rank) => {
    let next = 0;
    return {
      ...singleProcessGroup(device),
      rank,
      worldSize,
      async allGatherValues<T>(value: T): Promise<T[]> {
        const at = next++;
        if (!rounds[at]) {
          let done = () => {};
          const all = new Promise<void>((resolve) => {
            done = resolve;
          });
          rounds[at] = { values: [], arrived: 0, done, all };
        }
        const round = rounds[at];
        round.values[rank] = JSON.stringify(value);
        if (++round.arrived === worldSize) round.done();
        await round.all;
        return round.values.map((text) => JSON.parse(text) as T);
      },
    } as ProcessGroup;
  });
}
