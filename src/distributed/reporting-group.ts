import type { Tensor } from '../tensor.js';
import type { ProcessGroup } from './process-group.js';

/** The same group; `report` hears of each collective before it is queued. */
export function reportingGroup(group: ProcessGroup, report: (collective: string) => void): ProcessGroup {
  let count = 0;
  const say = (name: string, tensor?: Tensor) => {
    const size = tensor ? ` (${tensor.size.toLocaleString('en-US')} ${tensor.dtype})` : '';
    report(`collective ${++count}, ${name}${size}`);
  };
  return {
    rank: group.rank,
    worldSize: group.worldSize,
    localRank: group.localRank,
    engine: group.engine,
    allReduce(tensor, options) {
      say('allReduce', tensor);
      return group.allReduce(tensor, options);
    },
    reduceScatter(input, output) {
      say('reduceScatter', input);
      return group.reduceScatter(input, output);
    },
    allGather(input, output) {
      say('allGather', output);
      return group.allGather(input, output);
    },
    broadcast(tensor, root) {
      say('broadcast', tensor);
      return group.broadcast(tensor, root);
    },
    reduce(tensor, root) {
      say('reduce', tensor);
      return group.reduce(tensor, root);
    },
    barrier() {
      say('barrier');
      return group.barrier();
    },
    allGatherValues(value) {
      say('allGatherValues');
      return group.allGatherValues(value);
    },
    abort: (reason) => group.abort(reason),
    get failure() {
      return group.failure;
    },
    statistics: () => group.statistics(),
    close: () => group.close(),
  };
}
