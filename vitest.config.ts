import { defineConfig } from 'vitest/config';

export default defineConfig({
  // The examples import the package by its name.
  resolve: { alias: [{ find: /^grpo-native$/, replacement: new URL('./src/index.ts', import.meta.url).pathname }] },
  test: {
    include: ['test/**/*.test.ts', 'examples/**/*.test.ts'],
    globalSetup: ['./scripts/wgsl.mjs', './test/cuda-on-cpu/setup.mjs'],
    pool: 'forks',
    maxWorkers: '100%', // by default a core is left idle, of two the half
    // The kernels of GPUs compute on the processor here, and on a busy machine several times slower still.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    reporters: ['default'],
  },
});
