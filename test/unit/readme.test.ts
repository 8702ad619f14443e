import { readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string) => readFile(join(root, path), 'utf8');
const pages = ['README.md', 'CONTRIBUTING.md', ...(await readdir(join(root, 'docs'))).map((name) => `docs/${name}`)];

describe('the documentation', () => {
  it('shows the program of examples/minimal.ts in the README, as it is', async () => {
    expect(await read('README.md')).toContain(await read('examples/minimal.ts'));
  });

  it.each(pages.filter((page) => page.endsWith('.md')))('%s links to files that exist', async (page) => {
    const links = [...(await read(page)).matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map((match) => match[1]!);
    for (const link of links) await expect(read(join(dirname(page), link)), link).resolves.toBeDefined();
  });

  it('has every page in its index', async () => {
    const index = await read('docs/README.md');
    for (const page of pages.filter((name) => /^docs\/(?!README)[\w-]+\.md$/.test(name))) {
      expect(index).toContain(`](${page.slice('docs/'.length)})`);
    }
  });
});
