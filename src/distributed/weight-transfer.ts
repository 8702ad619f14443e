import type { DType } from '../backend/backend.js';
import type { Device, Tensor } from '../tensor.js';
import type { ProcessGroup } from './process-group.js';

/** Elements of one broadcast: each has the time limit of the group. Both sides cut alike. */
const pieceLength = 2 ** 22;

/** Gives the weights of this rank, 0, to the others. A failure leaves them as they were, to be used and sent again. */
export async function sendWeights(group: ProcessGroup, flat: Tensor): Promise<void> {
  const { device, dtype, size } = flat;
  // Not the weights themselves: what a broadcast that fails was to write can be read no more, at its root either.
  const buffer = device.empty([Math.min(pieceLength, size)], dtype);
  try {
    for (const [offset, length] of pieces(size)) {
      const [from, to] = [flat.view([length], offset), buffer.view([length])];
      device.run('copy', { in: from, out: to });
      group.broadcast(to, 0);
      from.dispose();
      to.dispose();
    }
    await arrived(buffer, 0);
  } finally {
    buffer.dispose();
  }
}

/** The weights of rank 0, as many and in the dtype as it has them. Rejects unless they are there as a whole. */
export async function receiveWeights(group: ProcessGroup, device: Device, size: number, dtype: DType): Promise<Tensor> {
  const flat = device.empty([size], dtype);
  try {
    for (const [offset, length] of pieces(size)) {
      const piece = flat.view([length], offset);
      group.broadcast(piece, 0);
      piece.dispose();
    }
    await arrived(flat, size - 1);
    return flat;
  } catch (error) {
    flat.dispose();
    throw error;
  }
}

function* pieces(size: number): Generator<[offset: number, length: number]> {
  for (let offset = 0; offset < size; offset += pieceLength) yield [offset, Math.min(pieceLength, size - offset)];
}

/** Waits for the last broadcast, which fails if one before it did. */
async function arrived(tensor: Tensor, offset: number): Promise<void> {
  const last = tensor.view([1], offset);
  try {
    await last.read();
  } finally {
    last.dispose();
  }
}
