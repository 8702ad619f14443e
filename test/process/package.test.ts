import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'grpo-package-'));
const run = (command: string, args: string[], cwd: string) => execFileSync(command, args, { cwd, encoding: 'utf8' });

let packed: { filename: string; files: { path: string }[] };

beforeAll(() => {
  run(process.execPath, ['scripts/prebuild.mjs'], root);
  packed = JSON.parse(run('npm', ['pack', '--json', '--pack-destination', folder], root))[0];
  writeFileSync(join(folder, 'package.json'), '{ "name": "consumer", "private": true }');
  const flags = ['--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund'];
  run('npm', ['install', ...flags, join(folder, packed.filename)], folder);
}, 300_000);

afterAll(() => rmSync(folder, { recursive: true }));

const program = `
  const device = await openDevice('cpu', { threads: 1 });
  const x = device.tensor([1, 2, 3, 4], [2, 2]);
  const y = device.empty([2, 2], 'bf16');
  device.run('copy', { in: x, out: y });
  console.log((await y.read()).join(' '));
`;

describe('the packed package, installed without scripts', () => {
  test('holds the compiled code, the kernels and the binary, but no tests and no build folders', () => {
    const paths = packed.files.map((file) => file.path);
    expect(paths).toEqual(
      expect.arrayContaining(['dist/index.js', 'dist/index.d.ts', 'kernels/include/grpo.h', 'LICENSE']),
    );
    expect(paths).toContain(readdirSync(join(root, 'prebuilds')).map((name) => `prebuilds/${name}`)[0]);
    expect(paths.filter((path) => /^(test|src|build|node_modules)\//.test(path))).toEqual([]);
  });

  test('runs a kernel when it is imported', () => {
    writeFileSync(join(folder, 'program.mjs'), `import { openDevice } from 'grpo-native';\n${program}`);
    expect(run(process.execPath, ['program.mjs'], folder)).toBe('1 2 3 4\n');
  });

  test('runs a kernel when it is required', () => {
    const body = `const { openDevice } = require('grpo-native');\n(async () => {${program}})();`;
    writeFileSync(join(folder, 'program.cjs'), body);
    expect(run(process.execPath, ['program.cjs'], folder)).toBe('1 2 3 4\n');
  });
});
