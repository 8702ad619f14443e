import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { addonPaths, cudaLibraryPaths, load, nextActions, prebuildName } from '../../../src/backend/loader.js';
import { BackendUnavailableError } from '../../../src/errors.js';

const folder = mkdtempSync(join(tmpdir(), 'grpo-loader-'));
afterAll(() => rmSync(folder, { recursive: true }));

function loadError(paths: string[]): BackendUnavailableError {
  try {
    load(paths);
  } catch (error) {
    return error as BackendUnavailableError;
  }
  throw new Error('load() should have failed');
}

describe('looking for the addon', () => {
  test('goes from the explicit path over own builds to the prebuilt binary', () => {
    expect(addonPaths({ GRPO_NATIVE_PATH: '/elsewhere/grpo.node' })).toEqual(['/elsewhere/grpo.node']);
    const [cmake, gyp, prebuild] = addonPaths({});
    expect(cmake).toMatch(/build-cmake.Release.grpo\.node$/);
    expect(gyp).toMatch(/build.Release.grpo\.node$/);
    expect(prebuild).toMatch(new RegExp(`prebuilds.${process.platform}-${process.arch}(-musl)?\\.node$`));
  });

  test('names a prebuilt binary after system, processor and C library', () => {
    expect(prebuildName('linux', 'x64', false)).toBe('linux-x64');
    expect(prebuildName('linux', 'arm64', true)).toBe('linux-arm64-musl');
  });

  test('looks for the CUDA library beside the addon and in its own build folder', () => {
    expect(cudaLibraryPaths('/here/grpo.node', { GRPO_CUDA_LIBRARY: '/x.so' })).toEqual(['/x.so']);
    expect(cudaLibraryPaths('/here/grpo.node', {})).toEqual([
      '/here/libgrpo_cuda.so',
      expect.stringMatching(/build-cuda.libgrpo_cuda\.so$/),
    ]);
  });

  test('reports each attempt with its stage and what to do next', () => {
    const broken = join(folder, 'broken.node');
    writeFileSync(broken, 'this is not a shared library');
    const error = loadError([join(folder, 'missing.node'), broken]);
    expect(error).toBeInstanceOf(BackendUnavailableError);
    expect(error.code).toBe('GRPO_BACKEND_UNAVAILABLE');
    expect(error.attempts).toEqual([
      { path: join(folder, 'missing.node'), stage: 'resolve', message: 'no such file' },
      { path: broken, stage: 'load', message: expect.any(String) },
    ]);
    expect(error.message).toContain(broken);
    expect(error.message).toContain('npm run build:native');
  });
});

describe('what to do next', () => {
  const actions = (message: string) => nextActions([{ path: 'grpo.node', stage: 'load', message }]).join('\n');

  test('follows from what went wrong', () => {
    expect(actions('Cannot load native addon because loading addons is disabled.')).toMatch(/without --no-addons/);
    expect(actions('/x/grpo.node: invalid ELF header')).toMatch(/another processor or system/);
    expect(actions("version `GLIBCXX_3.4.32' not found")).toMatch(/newer C or C\+\+ library/);
    expect(actions('no such file')).not.toMatch(/no-addons|another processor|newer C/);
  });
});
