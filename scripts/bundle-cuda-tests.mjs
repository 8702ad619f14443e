// Makes build-cuda/tests: everything that the tests of a CUDA device need but Node itself, the driver and cuBLAS, so that
// the folder can be carried to a machine that has nothing of this repository, and run there: node suite.mjs.
import { cpSync, existsSync, rmSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { build } from 'vite';
import { fail, root } from './lib.mjs';

const folder = join(root, 'build-cuda/tests');
const entry = 'test/gpu/suite.ts';
const program = 'test/process/programs/collective-rank.mjs';

// In the bundle a module finds the files beside it at the same paths as here, in the folder that is carried.
const sourcePaths = {
  name: 'source-paths',
  transform(code, id) {
    const path = relative(root, id).split(sep).join('/');
    if (/^(\.\.|node_modules)\//.test(path) || path === entry || !code.includes('import.meta.url')) return;
    return { code: code.replaceAll('import.meta.url', `new URL(${JSON.stringify(path)}, testFolder).href`), map: null };
  },
};
const banner = ({ fileName }) => {
  const up = '../'.repeat(fileName.split('/').length - 1) || './';
  return `const testFolder = new URL('${up}', import.meta.url);`;
};

rmSync(folder, { recursive: true, force: true });
await build({
  configFile: false,
  root,
  logLevel: 'warn',
  plugins: [sourcePaths],
  resolve: { alias: { vitest: join(root, 'test/gpu/vitest.ts') } },
  ssr: { noExternal: true },
  build: {
    ssr: true,
    outDir: folder,
    target: 'node20',
    minify: false,
    rolldownOptions: {
      external: ['webgpu'],
      input: { suite: join(root, entry), [program.replace('.mjs', '')]: join(root, program) },
      output: { entryFileNames: '[name].mjs', chunkFileNames: 'chunks/[name].mjs', banner },
    },
  },
});

const carried = ['build/Release/grpo.node', ...['kernels', 'decoder', 'models'].map((name) => `test/fixtures/${name}`)];
const library = 'build-cuda/libgrpo_cuda.so';
if (existsSync(join(root, library))) carried.push(library);
for (const path of carried) {
  if (!existsSync(join(root, path))) fail(`${path} is missing: npm run setup`);
  cpSync(join(root, path), join(folder, path), { recursive: true });
}
const without = carried.includes(library) ? '' : ', without libgrpo_cuda.so, which npm run build:cuda makes';
console.log(`build-cuda/tests: node suite.mjs runs the tests of a CUDA device${without}.`);
