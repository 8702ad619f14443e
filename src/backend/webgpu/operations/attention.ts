import { KernelError } from '../../../errors.js';
import type { TensorView } from '../../backend.js';
import type { Arguments, Kernels } from './dispatch.js';

/** Threads of a query row. */
const lanes = 8;
const packedQueries = 16;
const cachedQueries = 4;
const backwardRows = 8;

export function attention(kernels: Kernels, args: Arguments<'attention'>): void {
  const { queries, keys, values, out, logSumExp, scale, maxLength } = args;
  const heads = headLayout('attention', queries, keys, args.headDim);
  const { runs, sequences } = sequenceRuns(kernels, 'attention', args);
  kernels.dispatch({
    sources: ['attention', 'attention_packed'],
    reductions: rowReductions,
    constants: { ...workgroup(packedQueries), ...heads.constants, HAS_LOG_SUM_EXP: logSumExp != null },
    parameters: { u32: { ...heads.parameters, sequences }, f32: { scale } },
    tensors: { queries, keys, values, runs, out, logSumExp: logSumExp ?? 'no f32' },
    writes: ['out', 'logSumExp'],
    workgroups: tiles(maxLength, queries, packedQueries) * sequences * heads.parameters.heads,
  });
}

export function cachedAttention(kernels: Kernels, args: Arguments<'cachedAttention'>): void {
  const { queries, keyCache, valueCache, segments, out, scale, maxLength } = args;
  const heads = headLayout('cachedAttention', queries, keyCache, args.headDim);
  const rows = queries.shape[0]!;
  if (rows === 0) return;
  const cached = keyCache.shape[0]!;
  const faultSlot = kernels.faultSlot(
    ({ index, values }) =>
      `cachedAttention: expected segments[${index}] to name 1 to maxLength ${maxLength} of ${cached} cached rows but received (${values})`,
  );
  kernels.dispatch({
    sources: ['check_segments'],
    parameters: { u32: { rows, cached, maxLength: Math.min(maxLength, 2 ** 31 - 1), faultSlot } },
    tensors: { segments },
    writes: [],
    workgroups: 1,
  });
  const { keyHeads, groupSize } = heads.parameters;
  kernels.dispatch({
    sources: ['attention', 'attention_cached'],
    reductions: rowReductions,
    constants: { ...workgroup(cachedQueries), ...heads.constants, HAS_LOG_SUM_EXP: false },
    parameters: { u32: { ...heads.parameters, rows, cached }, f32: { scale } },
    tensors: { queries, keys: keyCache, values: valueCache, segments, out, logSumExp: 'no f32' },
    writes: ['out', 'logSumExp'],
    workgroups: rows * keyHeads * Math.ceil(groupSize / cachedQueries),
  });
}

export function attentionBackward(kernels: Kernels, args: Arguments<'attentionBackward'>): void {
  const { queries, keys, values, parents, out, logSumExp, gradOut, gradQueries, gradKeys, gradValues, scale } = args;
  const { constants, parameters } = headLayout('attentionBackward', queries, keys, args.headDim);
  const { runs, sequences } = sequenceRuns(kernels, 'attentionBackward', args);
  const total = queries.shape[0]!;
  if (total === 0) return;
  const statistics = kernels.scratch([total, 2 * parameters.heads], 'f32');
  kernels.dispatch({
    sources: ['attention_statistics'],
    constants,
    parameters: { u32: { ...parameters, total } },
    tensors: { out, logSumExp, gradOut, statistics },
    writes: ['statistics'],
    workgroups: Math.ceil((total * parameters.heads) / 64),
  });
  const inputs = { queries, keys, values, runs, statistics, gradOut };
  const blocks = tiles(args.maxLength, queries, backwardRows) * sequences;
  kernels.dispatch({
    sources: ['attention_backward', 'attention_backward_queries'],
    constants,
    parameters: { u32: { ...parameters, sequences }, f32: { scale } },
    tensors: { ...inputs, gradQueries },
    writes: ['gradQueries'],
    workgroups: blocks * parameters.heads,
  });
  kernels.dispatch({
    sources: ['attention_backward', 'attention_backward_keys'],
    constants: { ...constants, HAS_PARENTS: parents != null },
    parameters: { u32: { ...parameters, sequences }, f32: { scale } },
    tensors: { ...inputs, gradKeys, gradValues },
    writes: ['gradKeys', 'gradValues'],
    workgroups: blocks * parameters.keyHeads,
  });
}

const rowReductions = { most: 'f32', sum: 'f32' } as const;

function workgroup(queries: number) {
  return { QUERIES: queries, THREADS: lanes * queries, LANES: lanes };
}

/** Blocks of rows that the longest sequence takes. */
function tiles(maxLength: number, rows: TensorView, size: number): number {
  return Math.ceil(Math.min(maxLength, rows.shape[0]!) / size);
}

/** How columns are cut into heads. */
function headLayout(operation: string, queries: TensorView, keys: TensorView, headDim: number) {
  const q = queries.shape[1]!;
  const k = keys.shape[1]!;
  const d = Math.trunc(headDim);
  if (!(d > 0) || q % d !== 0 || k % d !== 0 || (q > 0 && (k === 0 || q % k !== 0))) {
    throw new KernelError(
      `${operation}: expected ${q} query and ${k} key columns to be heads of headDim ${d}, the first a multiple of the second`,
    );
  }
  return {
    constants: { HEAD_DIM_POWER: Math.max(8, 2 ** Math.ceil(Math.log2(d))) },
    parameters: { headDim: d, heads: q / d, keyHeads: k / d, groupSize: k === 0 ? 1 : q / k },
  };
}

/** Checks the packed sequences and writes, for each, where its own rows and those of its parent are. */
function sequenceRuns(
  kernels: Kernels,
  operation: string,
  args: Pick<Arguments<'attention'>, 'queries' | 'sequenceOffsets' | 'parents' | 'maxLength'>,
) {
  const { sequenceOffsets, parents, maxLength } = args;
  const total = args.queries.shape[0]!;
  const sequences = sequenceOffsets.shape[0]! - 1;
  if (sequences < 0)
    throw new KernelError(`${operation}: expected sequenceOffsets of at least one entry but received 0`);
  const faultSlot = kernels.faultSlot(({ code, index, values: [first, second, length] }) => {
    if (code === 1)
      return `${operation}: expected sequenceOffsets from 0 to ${total} but received ${first} to ${second}`;
    if (code === 2) {
      return `${operation}: expected parents[${index}] to be -1 or an earlier sequence without a parent but received ${first}`;
    }
    return `${operation}: expected sequenceOffsets[${index + 1}] from ${first} on and sequences of at most maxLength ${maxLength} but received ${second}, a length of ${length}`;
  });
  const runs = kernels.scratch([Math.max(1, sequences), 4], 'i32');
  kernels.dispatch({
    sources: ['sequence_runs'],
    constants: { HAS_PARENTS: parents != null },
    parameters: { u32: { sequences, total, maxLength: Math.min(maxLength, 2 ** 31 - 1), faultSlot } },
    tensors: { sequenceOffsets, parents: parents ?? 'no i32', runs },
    writes: ['runs'],
    workgroups: 1,
  });
  return { runs, sequences };
}
