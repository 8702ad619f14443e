import { nodeFileSystem } from '../platform/node.js';

/** Where a command puts its JSONL rows: standard output as they come, or a file that appears whole at the end. */
export class RowOutput {
  readonly #path: string | undefined;
  readonly #rows: string[] = [];

  constructor(path: string | undefined) {
    this.#path = path;
  }

  write(row: object): void {
    const line = `${JSON.stringify(row)}\n`;
    if (this.#path === undefined) process.stdout.write(line);
    else this.#rows.push(line);
  }

  async finish(): Promise<void> {
    if (this.#path !== undefined) await nodeFileSystem.writeAtomic(this.#path, this.#rows.join(''));
  }
}
