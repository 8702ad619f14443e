/**
 * CUDA on this machine's GPU: the kernels (bench/cuda/measure_kernels.py), then whole GRPO updates and sampling of models of
 * Qwen2.5's shapes with random weights, beside the same models in PyTorch, in runs that take the sides in turn.
 *
 *     npm run bench:cuda -- --python python3 [--only kernels|training] [--shapes 0.5b,1.5b] [--budget-seconds 240]
 *
 * Writes bench/results/cuda-kernels-<gpu>.{json,md} and bench/results/cuda-training-<gpu>.{json,md}. On another device,
 * `--device cpu` say, sizes are tiny; the two sides are compared, and nothing is timed or written.
 */
import { spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import { BackendUnavailableError, openDevice } from '../src/index.js';
import { measureTraining } from './cuda/training.js';

const { values: flags } = parseArgs({
  options: {
    python: { type: 'string', default: process.env.GRPO_PYTHON || 'python3' },
    device: { type: 'string', default: 'cuda' },
    only: { type: 'string', default: 'kernels,training' },
    shapes: { type: 'string', default: '0.5b,1.5b' },
    /** Of each of the two parts: rounds are left out beyond it, rows are not. */
    'budget-seconds': { type: 'string', default: '240' },
  },
});
const parts = flags.only.split(',');
const budgetSeconds = Number(flags['budget-seconds']);

function fail(message: string): never {
  console.error(`bench:cuda: ${message}`);
  process.exit(1);
}

const unknown = parts.find((part) => part !== 'kernels' && part !== 'training');
if (unknown !== undefined) fail(`expected kernels or training for --only but received ${unknown}`);
if (!(budgetSeconds > 0))
  fail(`expected a number above 0 for --budget-seconds but received ${flags['budget-seconds']}`);

const device = await openDevice(flags.device).catch((error: Error) => {
  const last = error instanceof BackendUnavailableError ? error.attempts.at(-1) : undefined;
  const why = last ? `${last.path}: ${last.message}` : error.message.split('\n')[0];
  return fail(`needs the device ${flags.device}: ${why}`);
});
const timed = device.kind === 'cuda' && device.backend.details.name !== 'CUDA on the CPU';
try {
  if (parts.includes('kernels')) {
    const args = [
      'bench/cuda/measure_kernels.py',
      '--device',
      timed ? 'cuda' : 'cuda-on-cpu',
      '--budget-seconds',
      `${budgetSeconds}`,
    ];
    const { status, error } = spawnSync(flags.python, args, { stdio: 'inherit' });
    if (error) fail(`${flags.python} cannot be started: ${error.message}`);
    if (status !== 0) process.exitCode = 1;
  }
  if (parts.includes('training')) {
    const shapes = timed ? flags.shapes.split(',') : ['tiny-f32', 'tiny-bf16'];
    await measureTraining(device, { python: flags.python, timed, shapes, budgetSeconds });
  }
} catch (error) {
  fail((error as Error).message);
} finally {
  device.close();
}
