// Writes the WGSL files as a TypeScript module, so that Node, browsers and bundlers get them alike. What it writes is
// not kept in git; setup, tests and checks call it.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { filesUnder, root } from './lib.mjs';

const target = join(root, 'src/backend/webgpu/wgsl-sources.ts');

export default function writeWgslSources() {
  const entries = filesUnder(join(root, 'kernels/wgsl'), ['.wgsl'])
    .map((path) => [basename(path, '.wgsl'), readFileSync(path, 'utf8')])
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, text]) => `  ${name}: ${JSON.stringify(text)},\n`);
  const code = `// Written by scripts/wgsl.mjs from kernels/wgsl/.\nexport const wgslSources: Readonly<Record<string, string>> = {\n${entries.join('')}};\n`;
  if (!existsSync(target) || readFileSync(target, 'utf8') !== code) writeFileSync(target, code);
}

writeWgslSources();
