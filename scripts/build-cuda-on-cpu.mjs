// Builds the CUDA library with the host's compiler into build-cuda-on-cpu/, for tests without a GPU: the files of
// kernels/cuda/ with the stand-in for CUDA in test/cuda-on-cpu/, and a stand-in for cuBLAS. Compiles what has changed.
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { buildLibrary } from './compile.mjs';
import { filesUnder, root } from './lib.mjs';

const folder = join(root, 'build-cuda-on-cpu');
const emulator = join(root, 'test/cuda-on-cpu');
const cublas = join(emulator, 'cublas.cc');
const flags = ['-std=c++20', '-O2', '-g1', '-fPIC', '-fvisibility=hidden', '-ffp-contract=off', '-Wall', '-Wextra'];
const cuda = [
  '-Werror',
  '-DGRPO_CUDA_ON_CPU',
  '-Wno-unknown-pragmas',
  '-Wno-missing-braces',
  '-I',
  emulator,
  '-x',
  'c++',
];

export async function buildCudaOnCpu() {
  const headers = ['kernels', 'test/cuda-on-cpu'].flatMap((path) => filesUnder(join(root, path), ['.h']));
  const kernels = filesUnder(join(root, 'kernels/cuda'), ['.cu']);
  const threads = filesUnder(emulator, ['.cc']).filter((path) => path !== cublas);
  const common = { compiler: process.env.CXX || 'g++', flags: [...flags, ...cuda], folder, headers };
  const linkFlags = ['-Wl,-z,defs', '-ldl'];
  await buildLibrary({ ...common, linkFlags, sources: [cublas], library: join(folder, 'libcublas.so') });
  await buildLibrary({
    ...common,
    linkFlags,
    sources: [...kernels, ...threads, join(root, 'kernels/common/error_record.cc')],
    library: join(folder, 'libgrpo_cuda.so'),
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await buildCudaOnCpu();
