// Builds the addon with the address and undefined-behaviour sanitizers into build-sanitize/, runs the unit and
// conformance tests with it, then a small program with leak detection. Linux with GCC.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import process from 'node:process';
import { fail, root, run, runTool } from './lib.mjs';

if (process.platform !== 'linux') fail('npm run test:sanitize needs Linux and GCC.');
const folder = 'build-sanitize';
runTool('cmake-js/bin/cmake-js', ['build', '-O', folder, '--CDGRPO_SANITIZE=ON'], 'The sanitizer build failed.');

const library = (name) => spawnSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).stdout.trim();
// Tests ask for impossible amounts of memory on purpose: the allocator must answer, not abort.
const environment = (leaks) => ({
  ...process.env,
  GRPO_NATIVE_PATH: join(root, folder, 'Release/grpo.node'),
  LD_PRELOAD: `${library('libasan.so')} ${library('libubsan.so')}`,
  ASAN_OPTIONS: `detect_leaks=${leaks ? 1 : 0}:allocator_may_return_null=1`,
  UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1',
});

const folders = process.argv.length > 2 ? process.argv.slice(2) : ['test/unit', 'test/conformance'];
const args = ['run', '--testTimeout=300000', ...folders];
runTool('vitest/vitest.mjs', args, 'The tests failed under the sanitizers.', environment(false));
run(process.execPath, [join(root, 'scripts/setup.mjs')], 'dist/ could not be built.');
run(process.execPath, ['test/process/programs/every-call.mjs'], 'The addon leaks.', environment(true));
console.log('No errors and no leaks under the address and undefined-behaviour sanitizers.');
