// The stand-in for the instructions of tensor cores against plain products, lane by lane (test/cuda-on-cpu).
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { cudaOnCpu } from '../../devices.js';

test.skipIf(!existsSync(cudaOnCpu.library))('fragments, matrices of shared memory and asynchronous copies', () => {
  const emulator = fileURLToPath(new URL('../../cuda-on-cpu/', import.meta.url));
  const source = fileURLToPath(new URL('tensor_cores.cc', import.meta.url));
  const folder = mkdtempSync(join(tmpdir(), 'grpo-tensor-cores-'));
  try {
    const program = join(folder, 'tensor-cores');
    const sources = [source, join(emulator, 'tensor_cores.cc'), join(emulator, 'fibres.cc')];
    const flags = ['-std=c++20', '-O1', '-DGRPO_CUDA_ON_CPU', '-Wall', '-Wextra', '-Werror', '-Wno-unknown-pragmas'];
    execFileSync(process.env.CXX || 'g++', [...flags, '-I', emulator, ...sources, '-o', program]);
    expect(execFileSync(program, { encoding: 'utf8' })).toBe('right\n');
  } finally {
    rmSync(folder, { recursive: true });
  }
});
