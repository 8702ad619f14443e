// The tests of a CUDA device as one script for Node alone: scripts/bundle-cuda-tests.mjs makes a folder of it.
//
//   node suite.mjs                        every suite and every step; cuda-tests-<device>.md and .json beside suite.mjs
//   node suite.mjs --results FOLDER       ... there instead
//   node suite.mjs --only log-probs       only the files whose name contains this, nothing else, and no results
/// <reference types="vite/types/importMeta.d.ts" />
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type File, startTests, type Test, type VitestRunner } from '@vitest/runner';
import { getTests } from '@vitest/runner/utils';
import { availableDevices, openDevice } from '../../src/backend/open-device.js';

const here = dirname(fileURLToPath(import.meta.url));
const conformance = import.meta.glob('../conformance/*.test.ts');
const nccl = import.meta.glob('./nccl.test.ts');
/** Of the suites that take minutes beneath the memory checker, those with the most unlike accesses. */
const checked = [
  'decoder-layers',
  'decoder-attention',
  'decoder-cached-attention',
  'decoder-sample',
  'grpo-advantages',
  'grpo-log-probs',
  'grpo-policy-loss-from-logits',
];

interface Result {
  what: string;
  passed: number;
  failed: number;
  skipped: number;
  seconds: number;
}

/** Runs the tests of some files, those of the device alone, and tells which fail and why. */
async function run(
  what: string,
  files: Record<string, () => Promise<unknown>>,
  testNamePattern?: RegExp,
): Promise<Result> {
  const start = performance.now();
  const runner: VitestRunner = {
    config: {
      root: here,
      name: undefined,
      setupFiles: [],
      passWithNoTests: true,
      testNamePattern,
      allowOnly: false,
      sequence: { seed: 0, hooks: 'stack', setupFiles: 'list' },
      chaiConfig: undefined,
      maxConcurrency: 1,
      testTimeout: 600_000,
      hookTimeout: 600_000,
      retry: 0,
      includeTaskLocation: false,
      tags: [],
      tagsFilter: undefined,
      strictTags: false,
    },
    importFile: (path) => files[path]!(),
    onAfterRunSuite(suite) {
      if ('filepath' in suite) report(suite as File);
    },
  };
  const ended = await startTests(Object.keys(files), runner);
  const tests = ended.flatMap((file) => getTests(file));
  const count = (state: string) => tests.filter((test) => stateOf(test) === state).length;
  // A file whose hooks or whose import failed fails whatever its tests say.
  const broken = ended.filter((file) => file.result?.state === 'fail' && !getTests(file).some(failed)).length;
  return {
    what,
    passed: count('pass'),
    failed: count('fail') + broken,
    skipped: tests.filter((test) => test.mode === 'run').length - count('pass') - count('fail'),
    seconds: Math.round((performance.now() - start) / 100) / 10,
  };
}

const stateOf = (test: Test) => test.result?.state;
const failed = (test: Test) => stateOf(test) === 'fail';
const nameOf = (path: string) => path.replace(/.*\//, '').replace('.test.ts', '');

function report(file: File): void {
  const tests = getTests(file);
  const passed = tests.filter((test) => stateOf(test) === 'pass').length;
  const name = nameOf(file.filepath);
  console.log(`${file.result?.state === 'fail' ? 'FAILED' : 'passed'} ${name}: ${passed} tests`);
  for (const task of [file, ...tests]) {
    for (const error of task.result?.errors ?? []) {
      console.log(
        `  ${'fullTestName' in task ? task.fullTestName : name}\n    ${error.message.replace(/\n/g, '\n    ')}`,
      );
    }
  }
}

/** The suites again beneath compute-sanitizer's memory checker. */
function checkMemory(): Result | null {
  if (spawnSync('compute-sanitizer', ['--version']).error) return null;
  const start = performance.now();
  const self = fileURLToPath(import.meta.url);
  const ends = checked.map((name) => {
    const args = ['--error-exitcode', '9', '--target-processes', 'all', process.execPath, self, '--only', name];
    const { status, stdout } = spawnSync('compute-sanitizer', args, { encoding: 'utf8' });
    if (status !== 0) console.log(`memory checker, ${name}: exit ${status}\n${stdout}`);
    return status === 0;
  });
  const passed = ends.filter(Boolean).length;
  const seconds = Math.round((performance.now() - start) / 100) / 10;
  return { what: "compute-sanitizer's memcheck", passed, failed: ends.length - passed, skipped: 0, seconds };
}

const { values } = parseArgs({ options: { only: { type: 'string' }, results: { type: 'string', default: here } } });
const cuda = (await availableDevices()).find(({ kind }) => kind === 'cuda');
if (!cuda?.available) {
  console.error(`test:cuda: needs a CUDA device: ${cuda?.reason}`);
  process.exit(1);
}
const own = /cuda cublas/; // as test/devices.ts names it
if (values.only !== undefined) {
  const chosen = Object.entries(conformance).filter(([path]) => path.includes(values.only!));
  if (chosen.length === 0) {
    const known = Object.keys(conformance).map(nameOf).join(', ');
    console.error(`test:cuda: --only: expected a part of one of ${known} but received ${values.only}`);
    process.exit(1);
  }
  const result = await run('chosen', Object.fromEntries(chosen), own);
  console.log(`${result.passed} passed, ${result.failed} failed in ${result.seconds} s`);
  process.exit(result.failed > 0 || result.passed === 0 ? 1 : 0);
}

const device = await openDevice('cuda');
const { details } = device.backend;
const { name } = details;
device.close();
const results = [
  await run('conformance and training', conformance, own),
  await run('NCCL', nccl),
  checkMemory(),
].filter((result) => result !== null);
const lines = [
  `# CUDA tests on ${name}`,
  '',
  `${new Date().toISOString().slice(0, 10)}, \`npm run test:cuda\`, Node ${process.version}. ${Object.entries(details)
    .map(([key, value]) => `${key} ${value}`)
    .join(', ')}.`,
  '',
  '| what | passed | failed | skipped | seconds |',
  '| --- | --- | --- | --- | --- |',
  ...results.map((r) => `| ${r.what} | ${r.passed} | ${r.failed} | ${r.skipped} | ${r.seconds} |`),
];
const file = join(values.results, `cuda-tests-${name!.toLowerCase().replace(/[^a-z0-9]+/g, '-')}`);
writeFileSync(`${file}.md`, `${lines.join('\n')}\n`);
writeFileSync(`${file}.json`, `${JSON.stringify({ device: name, details, results }, null, 2)}\n`);
console.log(`${lines.join('\n')}\nWritten to ${file}.md and .json.`);
process.exit(results.some((result) => result.failed > 0 || result.passed === 0) ? 1 : 0);
