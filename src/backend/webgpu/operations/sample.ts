import { KernelError } from '../../../errors.js';
import type { Arguments, Kernels } from './dispatch.js';

/** Tokens a row whose histogram of weights fits 32-bit sums. */
const largestVocabulary = 2 ** 19;

export function sample(kernels: Kernels, args: Arguments<'sample'>): void {
  const { logits, keys, ids, logProbs, temperature, topK, topP, minP } = args;
  const [rows, vocabulary] = logits.shape as [number, number];
  const refuse = (name: string, expected: string, got: number): never => {
    throw new KernelError(`sample: expected ${expected} for ${name} but received ${got}`);
  };
  if (!(temperature >= 0) || temperature === Number.POSITIVE_INFINITY) {
    refuse('temperature', 'a number from 0 on', temperature);
  }
  if (!(topK >= 0) || topK !== Math.floor(topK)) refuse('topK', 'a whole number from 0 on', topK);
  if (!(topP >= 0 && topP <= 1)) refuse('topP', 'a number from 0 to 1', topP);
  if (!(minP >= 0 && minP <= 1)) refuse('minP', 'a number from 0 to 1', minP);
  if (rows === 0) return;
  if (vocabulary === 0) refuse('logits', 'at least one token a row', 0);
  if (vocabulary > largestVocabulary) {
    refuse('logits', `at most ${largestVocabulary} tokens a row on WebGPU`, vocabulary);
  }
  const threads = vocabulary > 1024 ? 256 : 32;
  kernels.dispatch({
    sources: ['integers', 'philox', 'sample'],
    reductions: { word: 'u32' },
    constants: { THREADS: threads, LANES: threads, GREEDY: temperature === 0, TOP_P: topP < 1 },
    parameters: {
      u32: {
        rows,
        vocabulary,
        topK: topK < vocabulary ? topK : 0,
        topPShare: Math.min(2 ** 32 - 1, Math.round(topP * 2 ** 32)),
      },
      f32: { inverseTemperature: temperature === 0 ? 1 : 1 / temperature, minP },
    },
    tensors: { logits, keys, ids },
    writes: ['ids'],
    workgroups: rows,
  });
  // The log-probs that training computes of these tokens, to the bit.
  kernels.run('tokenLogProbs', [logits, ids, null, logProbs, null, null], [temperature === 0 ? 1 : temperature, 0]);
}
