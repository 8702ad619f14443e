import { appendFile, readFile, truncate } from 'node:fs/promises';
import { parseJsonl } from '../data/jsonl.js';
import { FileFormatError } from '../errors.js';

/**
 * A JSONL file of results by id, which grows while work goes on and is read again when it continues. What a killed
 * process left of its last line is cut off.
 */
export class RecordLog<Row extends { id: string }> {
  readonly path: string;
  readonly rows: Map<string, Row>;
  #written: Promise<void> = Promise.resolve();

  private constructor(path: string, rows: Map<string, Row>) {
    this.path = path;
    this.rows = rows;
  }

  /** Opens a log. `check` says what is wrong with a row that this log could not have written, or undefined. */
  static async open<Row extends { id: string }>(
    path: string,
    check: (row: Record<string, unknown>) => string | undefined,
  ): Promise<RecordLog<Row>> {
    const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return Buffer.alloc(0);
      throw error;
    });
    const end = bytes.lastIndexOf(10) + 1;
    if (end < bytes.length) await truncate(path, end);
    const rows = new Map<string, Row>();
    for (const { line, value } of parseJsonl(bytes.toString('utf8', 0, end), path)) {
      const row = value as Record<string, unknown> | null;
      const problem = typeof row?.id === 'string' ? check(row) : 'expected an object with an id';
      if (problem) throw new FileFormatError(path, problem, line);
      rows.set(row!.id as string, row as unknown as Row);
    }
    return new RecordLog(path, rows);
  }

  /** Resolves when the rows are in the file. */
  append(rows: readonly Row[]): Promise<void> {
    const text = rows.map((row) => `${JSON.stringify(row)}\n`).join('');
    this.#written = this.#written.then(async () => {
      await appendFile(this.path, text);
      for (const row of rows) this.rows.set(row.id, row);
    });
    return this.#written;
  }
}
