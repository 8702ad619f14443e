import { InvalidArgumentError } from '../errors.js';
import type { Device, Tensor } from '../tensor.js';

export type CollectiveName = 'allReduce' | 'reduceScatter' | 'allGather' | 'broadcast' | 'reduce';

/**
 * Throws an `InvalidArgumentError` when the tensors of a collective do not fit it or each other, and an
 * `UnsupportedError` inside `device.record`.
 */
export function checkCollective(
  name: CollectiveName,
  input: Tensor,
  output: Tensor,
  worldSize: number,
  device: Device,
): void {
  device.refuseInRecording(name);
  for (const [role, tensor] of Object.entries({ input, output })) {
    const where = `${name}: ${input === output ? 'tensor' : role}`;
    if (tensor.device !== device) {
      throw new InvalidArgumentError(where, `a tensor of the group's device ${device.name}`, tensor.device.name);
    }
    if (tensor.shape.length > 1 && tensor.rowStride !== tensor.shape.at(-1)) {
      throw new InvalidArgumentError(where, 'a contiguous tensor', `row stride ${tensor.rowStride}`);
    }
  }
  if (input.dtype !== output.dtype) {
    throw new InvalidArgumentError(`${name}: output`, `dtype ${input.dtype}, the input's`, output.dtype);
  }
  const inputs = name === 'allGather' ? worldSize : 1;
  const outputs = name === 'reduceScatter' ? worldSize : 1;
  if (input.size * inputs !== output.size * outputs) {
    const ratio = name === 'reduceScatter' ? `1/${worldSize} of` : `${worldSize} times`;
    throw new InvalidArgumentError(
      `${name}: output`,
      `${ratio} the ${input.size} elements of the input`,
      `${output.size} elements`,
    );
  }
}
