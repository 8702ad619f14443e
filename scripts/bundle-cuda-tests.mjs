// Makes build-cuda/tests: everything that the tests and benchmarks of a CUDA device need but Node itself, the driver, cuBLAS
// and Python, so that the folder can be carried to a machine that has nothing of this repository, and run there:
// sh run.sh, or node suite.mjs for the tests alone. With --packed it has this machine's Node too, and Node and the CUDA
// library are packed (xz), some 35 MB in all.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import process from 'node:process';
import { build } from 'vite';
import { fail, root } from './lib.mjs';

const folder = join(root, 'build-cuda/tests');
const entry = 'test/gpu/suite.ts';
const bench = 'bench/cuda.ts';
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
      input: {
        suite: join(root, entry),
        bench: join(root, bench),
        [program.replace('.mjs', '')]: join(root, program),
      },
      output: { entryFileNames: '[name].mjs', chunkFileNames: 'chunks/[name].mjs', banner },
    },
  },
});

const carried = [
  'build/Release/grpo.node',
  ...['kernels', 'decoder', 'models'].map((name) => `test/fixtures/${name}`),
  // What run.sh builds the library from, and the Python side of the benchmarks.
  ...['cuda', 'common', 'include'].map((name) => `kernels/${name}`),
  ...['bench/cuda', 'bench/peers/training_torch.py', 'examples/pytorch'],
];
const library = 'build-cuda/libgrpo_cuda.so';
if (existsSync(join(root, library))) carried.push(library);
for (const path of carried) {
  if (!existsSync(join(root, path))) fail(`${path} is missing: npm run setup`);
  cpSync(join(root, path), join(folder, path), {
    recursive: true,
    filter: (file) => !/\.ts$|__pycache__/.test(file),
  });
}
mkdirSync(join(folder, 'bench/results'));
cpSync(join(root, dirname(entry), 'run.sh'), join(folder, 'run.sh'));
if (process.argv.includes('--packed')) {
  const node = join(folder, 'node');
  cpSync(process.execPath, node);
  const packed = carried.includes(library) ? [node, join(folder, library)] : [node];
  for (const [command, ...args] of [
    ['strip', node],
    ['xz', '-6', '-T0', ...packed],
  ]) {
    if (spawnSync(command, args, { stdio: 'inherit' }).status !== 0) fail(`--packed: ${command} failed.`);
  }
}
const without = carried.includes(library) ? '' : ', without libgrpo_cuda.so, which npm run build:cuda makes';
console.log(`build-cuda/tests: sh run.sh runs the tests and benchmarks of a CUDA device${without}.`);
