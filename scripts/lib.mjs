// What the scripts share: running commands, and telling whether a result is older than what it is made from.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { dirname, extname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Ends the script with a message for a person. */
export function fail(message) {
  console.error(`\n${message}`);
  process.exit(1);
}

/** Runs a command in the repository's folder with its output shown; ends the script with `hint` when it fails. */
export function run(command, args, hint, env = process.env) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit', env });
  const shown = [command, ...args.slice(0, 4), ...(args.length > 4 ? ['...'] : [])].join(' ');
  if (error || status !== 0) fail(`${shown} failed${error ? `: ${error.message}` : ''}.\n${hint}`);
}

/** Runs a tool that node_modules holds, by its JavaScript file: no shell, the same on every system. */
export function runTool(script, args, hint, env = process.env) {
  run(process.execPath, [join(root, 'node_modules', script), ...args], hint, env);
}

/** Whether a command can be started. */
export function hasCommand(command, args = ['--version']) {
  return spawnSync(command, args, { stdio: 'ignore' }).status === 0;
}

/** Files under `folder` whose name ends in one of `extensions` (all files without any), as full paths. */
export function filesUnder(folder, extensions) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && (!extensions || extensions.includes(extname(entry.name))))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name));
}

/** Whether `result` is missing or older than one of `sources`. */
export function isStale(result, sources) {
  if (!existsSync(result)) return true;
  const made = statSync(result).mtimeMs;
  return sources.some((source) => statSync(source).mtimeMs > made);
}

/** Everything that the addon is made from. */
export function nativeSources() {
  const code = ['kernels/common', 'kernels/cpu', 'kernels/include', 'native'].flatMap((folder) =>
    filesUnder(join(root, folder), ['.h', '.cc', '.inc', '.json']),
  );
  return [...code, join(root, 'binding.gyp')];
}
