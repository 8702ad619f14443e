// Which matrix product the CPU takes, by what the OpenBLAS that is found says of itself.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { compileLibrary } from '../c-library.js';

const dist = new URL('../../dist/index.js', import.meta.url).href;
const folder = mkdtempSync(join(tmpdir(), 'grpo-openblas-'));
let library: string;

/** The CPU's details in a process that finds an OpenBLAS with kernels for `core`. */
function details(core: string, options = {}): Record<string, string> {
  const program = `
    const { openDevice } = await import(${JSON.stringify(dist)});
    const device = await openDevice('cpu', ${JSON.stringify(options)});
    console.log(JSON.stringify(device.backend.details));
    device.close();`;
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
    env: { ...process.env, GRPO_OPENBLAS_PATH: library, FAKE_CORE: core },
  });
  expect(stderr).toBe('');
  return JSON.parse(stdout);
}

describe.skipIf(process.platform === 'win32')('an OpenBLAS', () => {
  beforeAll(() => {
    library = compileLibrary(
      folder,
      'openblas.so',
      `#include <stdlib.h>
       void cblas_sgemm(void) {}
       void openblas_set_num_threads(int count) { (void)count; }
       const char* openblas_get_config(void) { return "OpenBLAS 0"; }
       const char* openblas_get_corename(void) { return getenv("FAKE_CORE"); }`,
    );
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test('with kernels for this processor is taken, unless the one built in is asked for', () => {
    for (const core of ['Haswell', 'Zen', 'SkylakeX', 'Cooperlake', 'armv8', 'Whatever comes']) {
      expect(details(core).matmul).toBe(`openblas (${library}, OpenBLAS 0)`);
    }
    expect(details('Haswell', { matmul: 'builtin' }).matmul).toBe('builtin');
  });

  test('that falls back to kernels without AVX2 is only taken where there is nothing better, or when asked for', () => {
    const { isa, matmul } = details('Prescott');
    const openblas = `openblas (${library}, OpenBLAS 0)`;
    const better = `builtin (${library} would use its kernels for Prescott here, without AVX2)`;
    expect(matmul).toBe(isa === 'baseline' ? openblas : better);
    expect(details('Prescott', { matmul: 'openblas' }).matmul).toBe(openblas);
    expect(details('Prescott', { isa: 'baseline' }).matmul).toBe(openblas);
  });
});
