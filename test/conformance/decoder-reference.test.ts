import { describe, expect, test } from 'vitest';
import { attention, attentionBackward } from '../reference/attention.js';
import { embedding, embeddingBackward } from '../reference/embedding.js';
import { columnSum, matmul, matmulBackward } from '../reference/matmul.js';
import { matrix } from '../reference/matrix.js';
import { rmsNorm, rmsNormBackward } from '../reference/rms-norm.js';
import { rope } from '../reference/rope.js';
import { philox } from '../reference/sample.js';
import { swiglu, swigluBackward } from '../reference/swiglu.js';
import { differences, inner, randomMatrix, relativeError } from './decoder-harness.js';

const close = (actual: { data: Float64Array }, truth: Parameters<typeof relativeError>[1]) =>
  expect(relativeError(actual.data, truth)).toBeLessThan(1e-8);

describe('the reference agrees with central differences', () => {
  test.each([
    [false, false],
    [false, true],
    [true, false],
    [true, true],
  ])('matmul, transposed: %s, %s', (transposeA, transposeB) => {
    const a = randomMatrix(transposeA ? 4 : 3, transposeA ? 3 : 4, 1);
    const b = randomMatrix(transposeB ? 5 : 4, transposeB ? 4 : 5, 2);
    const gradOut = randomMatrix(3, 5, 3);
    const bias = randomMatrix(1, 5, 4);
    const loss = () => inner(matmul(a, b, { transposeA, transposeB, bias }), gradOut);
    const { gradA, gradB } = matmulBackward(a, b, gradOut, { transposeA, transposeB });
    close(gradA, differences(a, loss));
    close(gradB, differences(b, loss));
    close(columnSum(gradOut), differences(bias, loss));
  });

  test('embedding', () => {
    const table = randomMatrix(5, 3, 1);
    const ids = [4, 0, 4, 2];
    const gradOut = randomMatrix(4, 3, 2);
    close(
      embeddingBackward(gradOut, ids, 5),
      differences(table, () => inner(embedding(table, ids), gradOut)),
    );
  });

  test('rmsNorm over groups', () => {
    const input = randomMatrix(3, 8, 1);
    const weight = randomMatrix(1, 4, 2);
    const gradOut = randomMatrix(3, 8, 3);
    const loss = () => inner(rmsNorm(input, weight, 1e-3).out, gradOut);
    const { gradIn, gradWeight } = rmsNormBackward(input, weight, gradOut, 1e-3);
    close(gradIn, differences(input, loss));
    close(gradWeight, differences(weight, loss));
  });

  test('rope', () => {
    const input = randomMatrix(3, 12, 1);
    const gradOut = randomMatrix(3, 12, 2);
    const frequencies = Float32Array.of(1, 0.1, 0.01);
    const positions = [0, 7, 123];
    const loss = () => inner(rope(input, positions, frequencies), gradOut);
    close(rope(gradOut, positions, frequencies, { backward: true }), differences(input, loss));
  });

  test('attention of packed sequences with grouped heads', () => {
    const [q, k, v] = [randomMatrix(7, 8, 1), randomMatrix(7, 4, 2), randomMatrix(7, 4, 3)];
    const gradOut = randomMatrix(7, 8, 4);
    const offsets = [0, 1, 5, 7];
    const shape = { headDim: 2, scale: 0.7 };
    const loss = () => inner(attention(q, k, v, offsets, shape).out, gradOut);
    const { gradQueries, gradKeys, gradValues } = attentionBackward(q, k, v, offsets, gradOut, shape);
    close(gradQueries, differences(q, loss));
    close(gradKeys, differences(k, loss));
    close(gradValues, differences(v, loss));
  });

  test('swiglu', () => {
    const [gate, up, gradOut] = [randomMatrix(2, 5, 1), randomMatrix(2, 5, 2), randomMatrix(2, 5, 3)];
    const loss = () => inner(swiglu(gate, up), gradOut);
    const { gradGate, gradUp } = swigluBackward(gate, up, gradOut);
    close(gradGate, differences(gate, loss));
    close(gradUp, differences(up, loss));
  });

  test('and a derivative that is 2 % off does not', () => {
    const x = randomMatrix(2, 3, 1);
    const truth = differences(x, () => inner(x, x) / 2);
    close(x, truth);
    expect(
      relativeError(matrix(2, 3, (r, c) => x.data[r * 3 + c]! * (r === 1 ? 1.02 : 1)).data, truth),
    ).toBeGreaterThan(0.01);
  });
});

// The known answers that come with the authors' library.
test.each([
  { key: [0, 0], counter: [0, 0, 0, 0], words: [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8] },
  { key: [-1, -1], counter: [-1, -1, -1, -1], words: [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd] },
  {
    key: [0xa4093822, 0x299f31d0],
    counter: [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
    words: [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  },
])('Philox gives the known answer for key $key', ({ key, counter, words }) => {
  expect(philox(key as [number, number], counter)).toEqual(words);
});
