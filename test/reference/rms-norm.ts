import { at, type Matrix, matrix } from './matrix.js';

/** out = in / rms * weight over groups of weight.columns elements; inverseRms has a column a group of the row. */
export function rmsNorm(input: Matrix, weight: Matrix, epsilon: number): { out: Matrix; inverseRms: Matrix } {
  const group = weight.columns;
  const inverseRms = matrix(input.rows, input.columns / group, (r, g) => {
    let sum = 0;
    for (let i = 0; i < group; i++) sum += at(input, r, g * group + i) ** 2;
    return 1 / Math.sqrt(sum / group + epsilon);
  });
  const out = matrix(
    input.rows,
    input.columns,
    (r, c) => at(input, r, c) * at(inverseRms, r, Math.floor(c / group)) * weight.data[c % group]!,
  );
  return { out, inverseRms };
}

/** With x = in / rms and y = gradOut weight: gradIn = (y - x mean(x y)) / rms, gradWeight = sum of gradOut x. */
export function rmsNormBackward(
  input: Matrix,
  weight: Matrix,
  gradOut: Matrix,
  epsilon: number,
): { gradIn: Matrix; gradWeight: Matrix } {
  const group = weight.columns;
  const { inverseRms } = rmsNorm(input, weight, epsilon);
  const gradIn = matrix(input.rows, input.columns);
  const gradWeight = matrix(1, group);
  for (let r = 0; r < input.rows; r++) {
    for (let g = 0; g < input.columns / group; g++) {
      const inverse = at(inverseRms, r, g);
      const x = (i: number) => at(input, r, g * group + i) * inverse;
      const y = (i: number) => at(gradOut, r, g * group + i) * weight.data[i]!;
      let mean = 0;
      for (let i = 0; i < group; i++) mean += (x(i) * y(i)) / group;
      for (let i = 0; i < group; i++) {
        gradIn.data[r * input.columns + g * group + i] = (y(i) - x(i) * mean) * inverse;
        gradWeight.data[i]! += at(gradOut, r, g * group + i) * x(i);
      }
    }
  }
  return { gradIn, gradWeight };
}
