import { createReadStream } from 'node:fs';
import { appendFile, rename, writeFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';

/**
 * Appends bytes to a file, in order, without making the caller wait. What piles up while a write is under way goes out
 * with the next one. The first error is reported; after it the file stays as it is.
 */
export class AppendQueue {
  readonly #path: string;
  readonly #onError: (error: unknown) => void;
  #pending: Uint8Array[] = [];
  #running: Promise<void> | null = null;
  #failed = false;

  constructor(path: string, onError: (error: unknown) => void) {
    this.#path = path;
    this.#onError = onError;
  }

  append(bytes: Uint8Array): void {
    if (this.#failed) return;
    this.#pending.push(bytes);
    this.#running ??= this.#drain();
  }

  /** Resolves when everything appended so far has been written or has been reported as failed. */
  async flush(): Promise<void> {
    while (this.#running) await this.#running;
  }

  async #drain(): Promise<void> {
    try {
      while (this.#pending.length > 0) {
        const bytes = Buffer.concat(this.#pending);
        this.#pending = [];
        await appendFile(this.#path, bytes);
      }
    } catch (error) {
      this.#failed = true;
      this.#pending = [];
      this.#onError(error);
    } finally {
      this.#running = null;
    }
  }
}

/** The records of a JSONL file. A last line that a killed process left half-written is passed over. */
export async function* readJsonLines(path: string): AsyncGenerator<Record<string, unknown>> {
  const lines = createInterface({ input: createReadStream(path), crlfDelay: Number.POSITIVE_INFINITY });
  for await (const line of lines) {
    const record = parseRecord(line);
    if (record) yield record;
  }
}

/** Rewrites a JSONL file without half-written lines and without records of steps after `lastStep`. */
export async function truncateJsonLines(path: string, lastStep: number): Promise<void> {
  const kept: string[] = [];
  try {
    for await (const record of readJsonLines(path)) {
      if (typeof record.step === 'number' && record.step <= lastStep) kept.push(`${JSON.stringify(record)}\n`);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  await writeFile(`${path}.tmp`, kept.join(''));
  await rename(`${path}.tmp`, path);
}

function parseRecord(line: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}
