import { existsSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, resolve } from 'node:path';
import { expect, it } from 'vitest';

const source = new URL('../../src/', import.meta.url).pathname;

/** Everything that a module loads, itself included: files of src as paths, packages by name. */
function reachable(entry: string): Set<string> {
  const seen = new Set<string>();
  const visit = (file: string) => {
    if (seen.has(file)) return;
    seen.add(file);
    // Types are not loaded. What is left has `from '...'`, `import '...'` or `import('...')`.
    const text = readFileSync(file, 'utf8').replace(/(?:import|export) type [^;]*?;/g, '');
    for (const [, name] of text.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*'([^']+)'/g)) {
      if (!name!.startsWith('.')) seen.add(name!);
      else visit(resolve(dirname(file), name!.replace(/\.js$/, '.ts')));
    }
  };
  visit(entry);
  return seen;
}

it('the browser entry loads nothing of Node', () => {
  const modules = reachable(`${source}browser.ts`);
  expect(modules.size).toBeGreaterThan(40);
  const ofNode = [...modules].filter((name) => name.startsWith('node:') || builtinModules.includes(name));
  expect(ofNode).toEqual([]);
  expect(
    [...modules].filter((name) => /platform\/node|backend\/(native|loader|open-device)|src\/cli/.test(name)),
  ).toEqual([]);
});

it('the Node entry is found to load Node', () => {
  const modules = reachable(`${source}index.ts`);
  expect([...modules].some((name) => name.startsWith('node:'))).toBe(true);
  expect([...modules].filter((name) => name.startsWith('/') && !existsSync(name))).toEqual([]);
});

it('both entries can be imported', async () => {
  const node = await import('../../src/index.js');
  const browser = await import('../../src/browser.js');
  for (const name of Object.keys(browser)) expect(node).toHaveProperty(name);
  expect(node.openDevice).toBeTypeOf('function');
});
