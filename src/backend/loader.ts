import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { type BackendAttempt, BackendUnavailableError } from '../errors.js';
import type { Binding } from './binding.js';
import { configureBinding } from './native.js';

const packageRoot = fileURLToPath(new URL('../..', import.meta.url));

/** The file name of this platform's binary in prebuilds/, without its ending. */
export function prebuildName(platform: string, arch: string, musl: boolean): string {
  return `${platform}-${arch}${musl ? '-musl' : ''}`;
}

/** Where the addon may lie, in the order in which it is looked for. */
export function addonPaths(env: NodeJS.ProcessEnv = process.env): string[] {
  const name = prebuildName(process.platform, process.arch, usesMusl());
  const own = ['build-cmake/Release/grpo.node', 'build/Release/grpo.node', `prebuilds/${name}.node`];
  // An explicit path is meant: nothing else is tried beside it.
  return env.GRPO_NATIVE_PATH ? [env.GRPO_NATIVE_PATH] : own.map((path) => join(packageRoot, path));
}

/** Where libgrpo_cuda may lie, in the order in which it is looked for. */
export function cudaLibraryPaths(addonPath: string, env: NodeJS.ProcessEnv = process.env): string[] {
  if (env.GRPO_CUDA_LIBRARY) return [env.GRPO_CUDA_LIBRARY];
  const name = 'libgrpo_cuda.so';
  return [...new Set([join(dirname(addonPath), name), join(packageRoot, 'build-cuda', name)])];
}

/** Where the library that knows Gloo may lie, in the order in which it is looked for. */
export function glooLibraryPaths(addonPath: string, env: NodeJS.ProcessEnv = process.env): string[] {
  return env.GRPO_GLOO_LIBRARY ? [env.GRPO_GLOO_LIBRARY] : [join(dirname(addonPath), 'libgrpo_gloo.so')];
}

/** By what name or path NCCL is looked for. */
export function ncclLibraryPaths(env: NodeJS.ProcessEnv = process.env): string[] {
  return [env.GRPO_NCCL_LIBRARY || 'libnccl.so.2'];
}

export interface LoadedAddon {
  binding: Binding;
  path: string;
}

let loaded: LoadedAddon | undefined;

/** The addon, loaded at the first call. Throws a `BackendUnavailableError` that lists what was tried. */
export function loadAddon(): LoadedAddon {
  loaded ??= load(addonPaths());
  return loaded;
}

/** Loads the first of `paths` that can be loaded. */
export function load(paths: readonly string[]): LoadedAddon {
  const require = createRequire(import.meta.url);
  const attempts: BackendAttempt[] = [];
  for (const path of paths) {
    if (!existsSync(path)) {
      attempts.push({ path, stage: 'resolve', message: 'no such file' });
      continue;
    }
    try {
      const binding = require(path) as Binding;
      configureBinding(binding);
      // process.exit() runs no cleanup hooks of addons: their threads would go on while libraries are torn down.
      process.once('exit', () => binding.stop());
      return { binding, path };
    } catch (error) {
      attempts.push({ path, stage: 'load', message: (error as Error).message });
    }
  }
  throw new BackendUnavailableError('native', attempts, nextActions(attempts));
}

/** What helps against what went wrong. */
export function nextActions(attempts: readonly BackendAttempt[]): string[] {
  const messages = attempts.map((attempt) => attempt.message).join('\n');
  const actions: string[] = [];
  if (/loading addons is disabled/i.test(messages)) {
    actions.push('Start Node without --no-addons: the native kernels are an addon.');
  }
  if (/invalid ELF header|wrong ELF class|incompatible architecture|not a valid Win32/i.test(messages)) {
    actions.push(`The file was built for another processor or system; this is ${process.platform}-${process.arch}.`);
  }
  if (/GLIBC(XX)?_[\d.]+. not found/.test(messages)) {
    actions.push('The binary needs a newer C or C++ library than this system has: build it here.');
  }
  if (process.env.GRPO_NATIVE_PATH) {
    actions.push('GRPO_NATIVE_PATH is set: correct it, or unset it to look in the usual places.');
  }
  actions.push(
    'Build the addon: npm run build:native in the folder of grpo-native ' +
      '(needs Python 3, make and a C++20 compiler such as g++ 11).',
  );
  return actions;
}

function usesMusl(): boolean {
  if (process.platform !== 'linux') return false;
  // A report looks up the names of the process's network peers unless told not to.
  const report = process.report as typeof process.report & { excludeNetwork?: boolean };
  const before = report.excludeNetwork;
  report.excludeNetwork = true;
  const { header } = report.getReport() as { header: { glibcVersionRuntime?: string } };
  report.excludeNetwork = before;
  return header.glibcVersionRuntime === undefined;
}
