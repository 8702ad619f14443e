import type { Fault as FaultRecord } from './operations/dispatch.js';
import { bufferUsage } from './usage.js';

/** Something that may have gone wrong, which shows later. */
export class Doubt {
  /** undefined: not known yet; null: nothing. */
  error: Error | null | undefined;

  constructor(error?: Error | null) {
    this.error = error;
  }
}

/** Whether a tensor's memory could be made: writing the tensor does not settle it. */
export class MemoryDoubt extends Doubt {}

/** A check that a shader makes: it leaves a record where it failed. */
class ShaderDoubt extends Doubt {
  constructor(
    readonly page: Page,
    readonly slot: number,
    readonly describe: (record: FaultRecord) => Error,
  ) {
    super();
  }
}

interface Page {
  buffer: GPUBuffer;
  doubts: ShaderDoubt[];
}

const slots = 256;
const slotBytes = 32;
const pageBytes = slots * slotBytes;

/**
 * Where shaders report what they refuse. Operations do not wait, so what they wrote is in doubt until a read brings the
 * records along.
 */
export class FaultPages {
  readonly #device: GPUDevice;
  readonly #scoped: <T>(what: string, calls: () => T) => T;
  #pages: Page[] = [];
  #idle: GPUBuffer[] = [];

  /** `scoped` runs calls of the API and keeps what it says against them. */
  constructor(device: GPUDevice, scoped: <T>(what: string, calls: () => T) => T) {
    this.#device = device;
    this.#scoped = scoped;
  }

  /** A new doubt, with the buffer and the number that its shader reports to. */
  open(describe: (record: FaultRecord) => Error): { doubt: Doubt; buffer: GPUBuffer; slot: number } {
    let page = this.#pages.at(-1);
    if (!page || page.doubts.length === slots) {
      page = { buffer: this.#idle.pop() ?? this.#create(), doubts: [] };
      this.#pages.push(page);
    }
    const doubt = new ShaderDoubt(page, page.doubts.length, describe);
    page.doubts.push(doubt);
    return { doubt, buffer: page.buffer, slot: doubt.slot };
  }

  /** The buffer that the newest doubts report to. */
  get current(): GPUBuffer | undefined {
    return this.#pages.at(-1)?.buffer;
  }

  /** Bytes that `copy` needs for the records of these doubts. */
  static bytesFor(doubts: Iterable<Doubt>): number {
    return pagesOf(doubts).length * pageBytes;
  }

  /** Copies the records of the doubts behind each other; `settle` reads them from there. */
  static copy(doubts: Iterable<Doubt>, encoder: GPUCommandEncoder, to: GPUBuffer, offset: number): void {
    pagesOf(doubts).forEach((page, i) => {
      encoder.copyBufferToBuffer(page.buffer, 0, to, offset + i * pageBytes, pageBytes);
    });
  }

  /** Settles the doubts, and what else was known in their pages by then, from the copied records. */
  settle(doubts: readonly Doubt[], counts: ReadonlyMap<GPUBuffer, number>, records: Int32Array): void {
    pagesOf(doubts).forEach((page, p) => {
      for (const doubt of page.doubts.slice(0, counts.get(page.buffer))) {
        if (doubt.error !== undefined) continue;
        const at = (p * pageBytes + doubt.slot * slotBytes) / 4;
        const [code, index] = [records[at]!, records[at + 1]!];
        const values = [...records.subarray(at + 4, at + 8)] as [number, number, number, number];
        doubt.error = code === 0 ? null : doubt.describe({ code, index, values });
      }
    });
    const isDone = (page: Page) => page.doubts.length === slots && page.doubts.every((d) => d.error !== undefined);
    for (const page of this.#pages.filter(isDone)) {
      const encoder = this.#device.createCommandEncoder();
      encoder.clearBuffer(page.buffer);
      this.#device.queue.submit([encoder.finish()]);
      this.#idle.push(page.buffer);
    }
    this.#pages = this.#pages.filter((page) => !isDone(page));
  }

  /** How many doubts each page has now: those that a copy made now will settle. */
  counts(): ReadonlyMap<GPUBuffer, number> {
    return new Map(this.#pages.map(({ buffer, doubts }) => [buffer, doubts.length]));
  }

  close(): void {
    for (const { buffer } of this.#pages) buffer.destroy();
    for (const buffer of this.#idle) buffer.destroy();
  }

  #create(): GPUBuffer {
    const { STORAGE, COPY_SRC, COPY_DST } = bufferUsage;
    return this.#scoped('a buffer for faults', () =>
      this.#device.createBuffer({ size: pageBytes, usage: STORAGE | COPY_SRC | COPY_DST, label: 'faults' }),
    );
  }
}

function pagesOf(doubts: Iterable<Doubt>): Page[] {
  const open = [...doubts].flatMap((doubt) => (doubt instanceof ShaderDoubt && doubt.error === undefined ? doubt : []));
  return [...new Set(open.map(({ page }) => page))];
}
