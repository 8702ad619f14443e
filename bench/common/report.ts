/** What the benchmarks write, and how. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)]!;
}

export function today(): string {
  return new Date().toISOString().slice(0, 10);
}

/** How a run was started, without the paths of the machine: `options` are those that name one. */
export function commandOf(name: string, options: readonly string[] = []): string {
  const shown = process.argv
    .slice(2)
    .filter((arg, i, all) => !options.includes(arg) && !options.includes(all[i - 1] ?? ''));
  return `npm run bench -- ${[name, ...shown].join(' ')}`;
}

/**
 * Writes `<path>.json` and `<path>.md`. What bounds the figures, from profiles, is written by hand in
 * `<path>.notes.md`, which is kept when the benchmark runs again and put at the end.
 */
export function writeResults(path: string, result: object, markdown: string): void {
  const notes = `${path}.notes.md`;
  const text = existsSync(notes) ? `${markdown}\n${readFileSync(notes, 'utf8')}` : markdown;
  writeFileSync(`${path}.json`, `${JSON.stringify(result, null, 2)}\n`);
  writeFileSync(`${path}.md`, text);
  console.log(text);
}
