// Builds the CUDA library with the host's compiler into build-cuda-on-cpu/, for tests without a GPU: the files of
// kernels/cuda/ with the stand-in for CUDA in test/cuda-on-cpu/, and a stand-in for cuBLAS. Compiles what has changed.
import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { fail, filesUnder, isStale, root } from './lib.mjs';

const folder = join(root, 'build-cuda-on-cpu');
const emulator = join(root, 'test/cuda-on-cpu');
const compiler = process.env.CXX || 'g++';
const flags = ['-std=c++20', '-O2', '-g1', '-fPIC', '-fvisibility=hidden', '-ffp-contract=off', '-Wall', '-Wextra'];
const cuda = ['-x', 'c++', '-DGRPO_CUDA_ON_CPU', '-Wno-unknown-pragmas', '-I', emulator];

/** The paths of the two libraries, built where they are out of date. */
export async function buildCudaOnCpu() {
  mkdirSync(folder, { recursive: true });
  const headers = ['kernels/cuda', 'kernels/common', 'kernels/include', 'test/cuda-on-cpu'].flatMap((path) =>
    filesUnder(join(root, path), ['.h']),
  );
  const own = filesUnder(emulator, ['.cc']);
  const kernels = [
    ...filesUnder(join(root, 'kernels/cuda'), ['.cu']),
    ...own.filter((path) => !path.endsWith('cublas.cc')),
  ];
  const waiting = [];
  const objectOf = (source) => join(folder, `${basename(source)}.o`);
  for (const source of [...kernels, join(emulator, 'cublas.cc')]) {
    if (isStale(objectOf(source), [source, ...headers]))
      waiting.push([...flags, ...cuda, '-c', source, '-o', objectOf(source)]);
  }
  await Promise.all(
    Array.from({ length: Math.min(4, availableParallelism()) }, async () => {
      for (let args = waiting.pop(); args; args = waiting.pop()) await compile(args);
    }),
  );
  const library = join(folder, 'libgrpo_cuda.so');
  const cublas = join(folder, 'libcublas.so');
  const link = (to, sources, ...more) =>
    isStale(to, sources.map(objectOf)) && compile(['-shared', '-o', to, ...sources.map(objectOf), ...more]);
  await link(cublas, [join(emulator, 'cublas.cc')], '-Wl,-z,defs');
  await link(library, kernels, '-Wl,-z,defs', '-ldl');
  return { library, cublas };
}

function compile(args) {
  return new Promise((resolve) => {
    const child = spawn(compiler, args, { cwd: root, stdio: 'inherit' });
    child.on('error', (error) => fail(`${compiler} could not be started: ${error.message}`));
    child.on('exit', (code) => (code === 0 ? resolve() : fail(`${compiler} ${args.join(' ')} failed.`)));
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await buildCudaOnCpu();
