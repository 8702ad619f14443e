import process from 'node:process';
import { buildCudaOnCpu } from '../../scripts/build-cuda-on-cpu.mjs';
import { hasCommand } from '../../scripts/lib.mjs';

/** Builds the stand-in for CUDA before the tests, where there is a compiler for it. */
export default async function setup() {
  if (process.platform === 'linux' && hasCommand(process.env.CXX || 'g++')) await buildCudaOnCpu();
}
