// npm run test:cuda: the CUDA library on a real device. Builds it, runs the conformance suite and the training test on
// it, NCCL with one rank a device, the quickstart, and a pass of compute-sanitizer's memory checker where that is
// installed; writes bench/results/cuda-tests-<device>.md.
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { fail, hasCommand, root, run } from './lib.mjs';

run(process.execPath, [join(root, 'scripts/setup.mjs')], 'The addon could not be built.');
const capability = spawnSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], { encoding: 'utf8' });
const own = capability.stdout?.split('\n')[0]?.trim().replace('.', '');
const env = { ...process.env, GRPO_CUDA_ARCHITECTURES: process.env.GRPO_CUDA_ARCHITECTURES || own || '90' };
run(process.execPath, [join(root, 'scripts/build-cuda.mjs')], 'The CUDA library could not be built.', env);

const { availableDevices, openDevice } = await import('../dist/index.js');
const cuda = (await availableDevices()).find(({ kind }) => kind === 'cuda');
if (!cuda?.available) fail(`npm run test:cuda needs a CUDA device: ${cuda?.reason}.`);
const device = await openDevice('cuda');
const { name, details } = { name: device.name, details: device.backend.details };
device.close();

const vitest = ['node_modules/vitest/vitest.mjs', 'run', '--testTimeout=600000'];
const program = ['dist/cli/main.js'];
const steps = [
  ['conformance and training', process.execPath, [...vitest, 'test/conformance', '-t', 'cuda cublas']],
  ['NCCL', process.execPath, [...vitest, 'test/gpu']],
  ['quickstart', process.execPath, [...program, 'quickstart', '--device', 'cuda']],
];
if (hasCommand('compute-sanitizer')) {
  const checked = ['--error-exitcode', '9', '--target-processes', 'all', process.execPath, ...vitest];
  const some = [
    'test/conformance/decoder-layers',
    'test/conformance/decoder-attention',
    'test/conformance/grpo-advantages',
  ];
  steps.push(['compute-sanitizer memcheck', 'compute-sanitizer', [...checked, ...some, '-t', 'cuda cublas']]);
}
const results = steps.map(([title, command, args]) => {
  const { status } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  return `| ${title} | ${status === 0 ? 'passed' : `failed (exit ${status})`} |`;
});
const file = `bench/results/cuda-tests-${details.name.toLowerCase().replace(/[^a-z0-9]+/g, '-')}.md`;
const lines = [
  `# CUDA tests on ${name}`,
  '',
  `${new Date().toISOString().slice(0, 10)}, \`npm run test:cuda\`. ${Object.entries(details)
    .map(([key, value]) => `${key} ${value}`)
    .join(', ')}.`,
  '',
  '| what | result |',
  '|---|---|',
  ...results,
];
writeFileSync(join(root, file), `${lines.join('\n')}\n`);
console.log(`${lines.join('\n')}\nWritten to ${file}.`);
if (results.some((line) => line.includes('failed'))) process.exit(1);
