import { defineConfig } from 'vite';

// `grpo-native/browser` is resolved by the package's own exports, as it is for who has installed it.
export default defineConfig({
  root: import.meta.dirname,
  base: './',
  worker: { format: 'es' },
  build: { outDir: 'dist', emptyOutDir: true, target: 'es2022' },
});
