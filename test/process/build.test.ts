import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const lists = JSON.parse(read('native/sources.json')) as Record<string, string[]>;
const { sources, glooSources, defines } = lists;

/** The object file of a source, from whichever build the machine has. */
function objectFile(source: string): string {
  const stem = source.replace(/\.cc$/, '');
  const candidates = [`build/Release/obj.target/grpo/${stem}.o`, `build-cmake/CMakeFiles/grpo.dir/${source}.o`];
  const found = candidates.map((path) => join(root, path)).find(existsSync);
  if (!found) throw new Error(`${source} has not been compiled: run npm run build:native`);
  return found;
}

describe('native/sources.json', () => {
  test('names files that exist', () => {
    expect([...sources!, ...glooSources!].filter((path) => !existsSync(join(root, path)))).toEqual([]);
  });

  test('is the only place with sources, macros and flags: neither build file repeats one', () => {
    for (const buildFile of ['binding.gyp', 'CMakeLists.txt']) {
      const text = read(buildFile);
      expect(text).toContain('native/sources.json');
      for (const entry of [...sources!, ...glooSources!, ...defines!])
        expect(text, `${entry} in ${buildFile}`).not.toContain(entry);
    }
  });

  test('is what node-gyp reads', () => {
    for (const key of Object.keys(lists)) {
      const expression = new RegExp(
        `<!@\\(node -p \\\\"(require\\('\\./native/sources\\.json'\\)\\.${key}\\.join\\(' '\\))`,
      );
      const program = expression.exec(read('binding.gyp'))?.[1];
      const printed = execFileSync(process.execPath, ['-p', program!], { cwd: root, encoding: 'utf8' });
      expect(printed.trim().split(' ')).toEqual(lists[key]);
    }
  });

  test('is what CMake reads', () => {
    for (const key of Object.keys(lists)) expect(read('CMakeLists.txt')).toMatch(`read_list(${key} `);
  });
});

describe('kernels for one instruction set', () => {
  // The linker keeps one of several weak functions of the same name: it could put AVX code where any processor runs it.
  const isas = process.arch === 'x64' ? ['baseline', 'avx2', 'avx512'] : ['baseline'];
  test.each(isas)('%s define no function that another file might get', (isa) => {
    const symbols = execFileSync('nm', ['-C', '--defined-only', objectFile(`kernels/cpu/isa/${isa}.cc`)], {
      encoding: 'utf8',
    });
    const lines = symbols.split('\n').map((line) => line.split(' '));
    expect(lines.filter(([, type]) => type === 'W' || type === 'u').map(([, , ...name]) => name.join(' '))).toEqual([]);
    const shared = lines.filter(([, type]) => type === 'T').map(([, , ...name]) => name.join(' '));
    expect(shared).toEqual([]);
  });
});
