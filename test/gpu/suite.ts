// The tests of a CUDA device as one script for Node alone: scripts/bundle-cuda-tests.mjs makes a folder of it.
//
//   node suite.mjs                        every suite and every step; cuda-tests-<device>.md and .json beside suite.mjs
//   node suite.mjs --results FOLDER       ... there instead
//   node suite.mjs --steps suites,memory  only these steps of suites, nccl, memory; results of the others stay
//   node suite.mjs --seconds 60           a suite that takes longer has failed
//   node suite.mjs --suites log-probs     of the step suites only those whose name contains this
//   node suite.mjs --only log-probs       only the files whose name contains this, nothing else, and no results
//   node suite.mjs --only "" --device cpu   all files, on the processor
//
// Each suite runs in a process of its own: a kernel that loses the device or never ends costs that suite alone.
/// <reference types="vite/types/importMeta.d.ts" />
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type File, startTests, type Test, type VitestRunner } from '@vitest/runner';
import { getTests } from '@vitest/runner/utils';
import { availableDevices, openDevice } from '../../src/backend/open-device.js';

const here = dirname(fileURLToPath(import.meta.url));
// decoder-reference runs on no device.
const files = import.meta.glob([
  '../conformance/*.test.ts',
  '!../conformance/decoder-reference.test.ts',
  './nccl.test.ts',
]);
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
  /** What was said, where something failed. */
  output?: string;
}

/** Runs the tests of some files, those of the device alone, and tells which fail and why. */
async function run(what: string, paths: string[], testNamePattern?: RegExp): Promise<Result> {
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
    onBeforeRunTask(test) {
      if (values.names) console.log(`${begun}${test.name}`);
    },
    onAfterRunSuite(suite) {
      if ('filepath' in suite) report(suite as File);
    },
  };
  const ended = await startTests(paths, runner);
  const tests = ended.flatMap((file) => getTests(file));
  const count = (state: string) => tests.filter((test) => stateOf(test) === state).length;
  // A file whose hooks or whose import failed fails whatever its tests say.
  const broken = ended.filter((file) => file.result?.state === 'fail' && !getTests(file).some(failed)).length;
  return {
    what,
    passed: count('pass'),
    failed: count('fail') + broken,
    skipped: tests.filter((test) => test.mode === 'run').length - count('pass') - count('fail'),
    seconds: secondsSince(start),
  };
}

const stateOf = (test: Test) => test.result?.state;
const failed = (test: Test) => stateOf(test) === 'fail';
const begun = '... '; // before the name of a test that begins
const secondsSince = (start: number) => Math.round((performance.now() - start) / 100) / 10;
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

// Process groups that run, which end with this process.
const running = new Set<number>();
process.on('SIGTERM', () => {
  running.forEach(end);
  process.exit(143);
});

function end(group: number): void {
  try {
    process.kill(-group, 'SIGKILL');
  } catch {
    // It has ended by itself.
  }
}

/** Runs a suite in a process of its own, under `wrapper` if one is given. */
function runApart(what: string, name: string, seconds: number, wrapper: string[] = []): Promise<Result> {
  const start = performance.now();
  const suite = [process.execPath, fileURLToPath(import.meta.url), '--names', '--only', `/${name}.test`];
  const [command, ...args] = [...wrapper, ...suite];
  // A group of its own, all of which is ended when it takes too long.
  const child = spawn(command!, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  running.add(child.pid!);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  }
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    end(child.pid!);
  }, seconds * 1000);
  return new Promise((resolve) => {
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      running.delete(child.pid!);
      const counts = /(\d+) passed, (\d+) failed, (\d+) skipped/.exec(output)?.slice(1).map(Number);
      const [passed, failed, skipped] = counts ?? [0, 0, 0];
      let broken = 0;
      if (late || !counts || (code !== 0 && failed === 0)) {
        broken = 1;
        const how = late ? `did not end within ${seconds} s` : `ended with ${signal ?? `exit code ${code}`}`;
        output += `\nFAILED ${name}: ${how}`;
      }
      const bad = failed! + broken > 0;
      // Which test was the last to begin is of interest where none ended.
      if (!broken) output = output.replace(/^\.\.\. .*\n/gm, '');
      console.log(output.slice(-8000).trim());
      resolve({
        ...{ what, passed: passed!, failed: failed! + broken, skipped: skipped!, seconds: secondsSince(start) },
        ...(bad && { output: output.slice(-8000) }),
      });
    });
  });
}

const steps = ['suites', 'nccl', 'memory'];
const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    device: { type: 'string', default: 'cuda' },
    suites: { type: 'string', default: '' },
    names: { type: 'boolean', default: false }, // of tests, as they begin
    results: { type: 'string', default: here },
    steps: { type: 'string', default: steps.join(',') },
    seconds: { type: 'string', default: '300' },
  },
});

function fail(message: string): never {
  console.error(`test:cuda: ${message}`);
  process.exit(1);
}

const chosenSteps = values.steps.split(',');
const unknown = chosenSteps.find((step) => !steps.includes(step));
if (unknown !== undefined) fail(`--steps: expected some of ${steps.join(', ')} but received ${unknown}`);
const seconds = Number(values.seconds);
if (!(seconds > 0)) fail(`--seconds: expected a number above 0 but received ${values.seconds}`);
const tested = { cuda: /cuda cublas/, cpu: /cpu / }[values.device]; // as test/devices.ts names them
if (!tested) fail(`--device: expected cuda or cpu but received ${values.device}`);
if (values.device !== 'cuda' && values.only === undefined) fail('--device: expected --only with it');
const found = (await availableDevices()).find(({ kind }) => kind === values.device);
if (!found?.available) fail(`needs a ${values.device.toUpperCase()} device: ${found?.reason}`);
const paths = Object.keys(files);
if (values.only !== undefined) {
  const chosen = paths.filter((path) => path.includes(values.only!));
  if (chosen.length === 0) {
    fail(`--only: expected a part of one of ${paths.map(nameOf).join(', ')} but received ${values.only}`);
  }
  // The tests of NCCL have no other device.
  const own = chosen.every((path) => nameOf(path) === 'nccl') ? undefined : tested;
  const result = await run('chosen', chosen, own);
  const { passed, failed, skipped } = result;
  console.log(`${passed} passed, ${failed} failed, ${skipped} skipped in ${result.seconds} s`);
  process.exit(failed > 0 || passed === 0 ? 1 : 0);
}

const device = await openDevice('cuda');
const { details } = device.backend;
const { name } = details;
device.close();

const suites = paths.map(nameOf).filter((suite) => suite !== 'nccl' && suite.includes(values.suites));
if (suites.length === 0) fail(`--suites: expected a part of one of ${paths.map(nameOf).join(', ')}`);
const file = join(values.results, `cuda-tests-${name!.toLowerCase().replace(/[^a-z0-9]+/g, '-')}`);
const results: Result[] = [];
if (chosenSteps.length < steps.length && existsSync(`${file}.json`)) {
  results.push(...(JSON.parse(readFileSync(`${file}.json`, 'utf8')) as { results: Result[] }).results);
}

/** Keeps a result, in place of an earlier one of the same, and writes all: the run may be cut short. */
function keep(result: Result): void {
  const at = results.findIndex(({ what }) => what === result.what);
  results.splice(at < 0 ? results.length : at, 1, result);
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
  writeFileSync(`${file}.md`, `${lines.join('\n')}\n`);
  writeFileSync(`${file}.json`, `${JSON.stringify({ device: name, details, results }, null, 2)}\n`);
}

/** A few at a time: a suite spends most of its time on what it compares with, on the processor. */
async function runAll(names: readonly string[], prefix = '', wrapper: string[] = []): Promise<void> {
  const waiting = [...names];
  const work = async () => {
    for (let suite = waiting.shift(); suite; suite = waiting.shift()) {
      keep(await runApart(`${prefix}${suite}`, suite, seconds, wrapper));
    }
  };
  await Promise.all(Array.from({ length: Math.min(4, availableParallelism()) }, work));
}

if (chosenSteps.includes('suites')) await runAll(suites);
if (chosenSteps.includes('nccl')) keep(await runApart('NCCL', 'nccl', seconds));
if (chosenSteps.includes('memory') && !spawnSync('compute-sanitizer', ['--version']).error) {
  const checker = ['compute-sanitizer', '--error-exitcode', '9', '--target-processes', 'all'];
  await runAll(checked, 'compute-sanitizer, ', checker);
}
console.log(`${readFileSync(`${file}.md`, 'utf8')}\nWritten to ${file}.md and .json.`);
process.exit(results.some((result) => result.failed > 0 || result.passed === 0) ? 1 : 0);
