import { spawnSync } from 'node:child_process';
import process from 'node:process';
import { buildCudaOnCpu } from '../../scripts/build-cuda-on-cpu.mjs';

/** Builds the stand-in for CUDA before the tests, where there is a compiler for it. */
export default async function setup(): Promise<void> {
  if (process.platform !== 'linux' || spawnSync('g++', ['--version']).status !== 0) return;
  await buildCudaOnCpu();
}
