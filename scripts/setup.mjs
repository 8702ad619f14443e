// Makes a checkout ready to run: dependencies, addon, JavaScript. Does only what is missing or out of date, so that the
// quickstart and the tests can call it every time. Uses nothing that is not in Node, since it may have to install the rest.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { fail, filesUnder, isStale, nativeSources, root, run, runTool } from './lib.mjs';

checkNode();
if (dependenciesDiffer()) installDependencies();
if (process.env.GRPO_NATIVE_PATH) {
  console.log(`setup: using the addon at GRPO_NATIVE_PATH=${process.env.GRPO_NATIVE_PATH}`);
} else {
  buildAddon();
}
buildTypeScript();

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19)) fail(`Node 20.19 or newer is needed; this is ${process.version}.`);
}

/** Whether node_modules holds other versions than package-lock.json names. */
function dependenciesDiffer() {
  const installed = join(root, 'node_modules', '.package-lock.json');
  if (!existsSync(installed)) return true;
  const read = (path) => JSON.parse(readFileSync(path, 'utf8')).packages;
  const present = read(installed);
  return Object.entries(read(join(root, 'package-lock.json'))).some(
    ([path, { version, optional }]) => path !== '' && !optional && present[path]?.version !== version,
  );
}

function installDependencies() {
  console.log('setup: installing dependencies (npm ci)');
  const npm = process.env.npm_execpath;
  const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund'];
  const hint = 'The npm output above says why. Is the package registry reachable?';
  if (npm) run(process.execPath, [npm, ...args], hint);
  else run('npm', args, hint);
}

function buildAddon() {
  const sources = nativeSources();
  // The loader prefers what CMake built: a stale one would hide a fresh build/.
  const withCMake = join(root, 'build-cmake/Release/grpo.node');
  if (existsSync(withCMake)) {
    if (!isStale(withCMake, [...sources, join(root, 'CMakeLists.txt')])) return;
    console.log('setup: building the addon again (cmake-js, into build-cmake/)');
    runTool('cmake-js/bin/cmake-js', ['build', '-O', 'build-cmake'], 'Or delete build-cmake/ to build with node-gyp.');
    return;
  }
  if (!isStale(join(root, 'build/Release/grpo.node'), sources)) return;
  console.log('setup: building the addon (node-gyp, a minute or two the first time)');
  run(process.execPath, [join(root, 'scripts/build-native.mjs')], 'The addon was not built.');
}

function buildTypeScript() {
  run(process.execPath, [join(root, 'scripts/wgsl.mjs')], 'The WGSL files could not be written as a module.');
  const sources = [...filesUnder(join(root, 'src')), join(root, 'tsconfig.json'), join(root, 'tsconfig.build.json')];
  if (!isStale(join(root, 'dist/.built'), sources)) return;
  console.log('setup: compiling TypeScript');
  run(process.execPath, [join(root, 'scripts/build-ts.mjs')], 'The messages above say where.');
}
