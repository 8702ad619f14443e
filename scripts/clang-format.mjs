// Checks the format of the C++ and CUDA code, or with --write corrects it.
import { join } from 'node:path';
import process from 'node:process';
import { fail, filesUnder, hasCommand, root, run } from './lib.mjs';

if (!hasCommand('clang-format')) fail('clang-format was not found. Install it: sudo apt-get install -y clang-format');
const extensions = ['.h', '.cc', '.inc', '.cu', '.cuh'];
const files = ['kernels', 'native', 'test/cuda-on-cpu', 'test/unit/cuda-on-cpu'].flatMap((folder) =>
  filesUnder(join(root, folder), extensions),
);
const write = process.argv.includes('--write');
run('clang-format', [...(write ? ['-i'] : ['--dry-run', '-Werror']), ...files], 'Run npm run format to correct it.');
