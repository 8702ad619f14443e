// Compiles src/ into dist/ and copies the files beside the TypeScript (pages, styles) that the code reads when it runs.
import { copyFileSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { filesUnder, root, runTool } from './lib.mjs';
import './wgsl.mjs';

const source = join(root, 'src');
const target = join(root, 'dist');

runTool('typescript/bin/tsc', ['-p', 'tsconfig.build.json'], 'TypeScript found errors.');

const expected = new Set([join(target, '.built')]);
for (const file of filesUnder(source)) {
  const copy = join(target, relative(source, file));
  if (file.endsWith('.ts')) {
    const stem = copy.slice(0, -'.ts'.length);
    for (const ending of ['.js', '.js.map', '.d.ts']) expected.add(stem + ending);
  } else {
    mkdirSync(dirname(copy), { recursive: true });
    copyFileSync(file, copy);
    expected.add(copy);
  }
}

// What has no source any more would still be published.
for (const file of filesUnder(target)) {
  if (!expected.has(file) && existsSync(file)) rmSync(file);
}
writeFileSync(join(target, '.built'), '');
