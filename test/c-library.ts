import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';

/** A library that exports what `code` says, made in `folder` with the C compiler that the addon needs anyway. */
export function compileLibrary(folder: string, name: string, code: string): string {
  const path = join(folder, name);
  writeFileSync(`${path}.c`, code);
  const header = new URL('../kernels/include', import.meta.url).pathname;
  const { status, stderr } = spawnSync('cc', ['-shared', '-fPIC', `-I${header}`, '-o', path, `${path}.c`, '-ldl']);
  expect(status, String(stderr)).toBe(0);
  return path;
}

/** The same for a file of test/fixtures. */
export function compileFixture(folder: string, name: string): string {
  const code = readFileSync(new URL(`fixtures/${name}.c`, import.meta.url), 'utf8');
  return compileLibrary(folder, `${name}.so`, code);
}
