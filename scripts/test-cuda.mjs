// npm run test:cuda: the CUDA library on a real device. Builds it and, in build-cuda/tests, the folder of its tests
// (test/gpu/suite.ts), runs them with Node alone, then the quickstart; writes bench/results/cuda-tests-<device>.md and .json.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import process from 'node:process';
import { root, run } from './lib.mjs';

run(process.execPath, [join(root, 'scripts/setup.mjs')], 'The addon could not be built.');
const capability = spawnSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], { encoding: 'utf8' });
const own = capability.stdout?.split('\n')[0]?.trim().replace('.', '');
const env = { ...process.env, GRPO_CUDA_ARCHITECTURES: process.env.GRPO_CUDA_ARCHITECTURES || own || '90' };
run(process.execPath, [join(root, 'scripts/build-cuda.mjs')], 'The CUDA library could not be built.', env);
run(process.execPath, [join(root, 'scripts/bundle-cuda-tests.mjs')], 'The tests could not be bundled.');
const suite = [join(root, 'build-cuda/tests/suite.mjs'), '--results', join(root, 'bench/results')];
run(process.execPath, suite, 'Some tests failed on the device.');
run(process.execPath, ['dist/cli/main.js', 'quickstart', '--device', 'cuda'], 'The quickstart failed on the device.');
