import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const lists = JSON.parse(read('native/sources.json')) as Record<string, string[]>;
const { sources, glooSources, defines } = lists;

const hasClang = spawnSync('clang++', ['--version']).status === 0;

function isClang(object: string): boolean {
  return readFileSync(object).includes('clang version');
}

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

describe('nvcc', () => {
  // Otherwise it fuses products and sums as it likes, and a formula has other bits in another kernel.
  test.each(['scripts/build-cuda.mjs', 'kernels/cuda/build.sh'])(
    'rounds every operation as the source has it: %s',
    (path) => {
      const text = read(path);
      expect(text).toContain('-fmad=false');
      expect(text).not.toMatch(/fast.math|-(ftz|prec-div|prec-sqrt)/);
    },
  );
});

describe('kernels for one instruction set', () => {
  // The linker keeps one of several weak functions of the same name: it could put AVX code where any processor runs it.
  const isas = process.arch === 'x64' ? ['baseline', 'avx2', 'avx512'] : ['baseline'];
  test.each(isas)('%s define no function that another file might get', (isa) => {
    const object = objectFile(`kernels/cpu/isa/${isa}.cc`);
    const symbols = execFileSync('nm', ['-C', '--defined-only', object], { encoding: 'utf8' });
    const lines = symbols.split('\n').map((line) => line.split(' '));
    const named = (types: string) =>
      lines.filter(([, type]) => type && types.includes(type)).map(([, , ...name]) => name.join(' '));
    // Clang's attribute reaches what stands after it only, so that the standard library's functions, which it leaves
    // weak here, are code for any processor.
    const ofAnyProcessor = (name: string) => isClang(object) && name.startsWith('std::');
    expect(named('Wu').filter((name) => !ofAnyProcessor(name))).toEqual([]);
    expect(named('T')).toEqual([]);
  });
});

describe('Clang', () => {
  // The compilers name the instruction set of a part of a file each in their own way, and know other types of 16 bits.
  const gloo = existsSync('/usr/include/gloo/context.h') ? glooSources! : [];
  const files = ['kernels/cpu/isa/avx2.cc', 'kernels/cpu/isa/avx512.cc', ...gloo];
  test.skipIf(process.arch !== 'x64' || !hasClang).each(files)('compiles %s', (file) => {
    const args = ['-std=c++20', '-O0', '-Wall', '-Wextra', '-Werror', '-Wno-psabi', '-c', '-o', '/dev/null', file];
    execFileSync('clang++', args, { cwd: root });
  });
});
