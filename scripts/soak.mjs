// Kills a run on several ranks at random points, again and again, and starts it again from its last checkpoint:
//   node scripts/soak.mjs [--kills 200] [--ranks 2] [--steps 40] [--seed 1]
// After each kill every finished checkpoint must be there and hold what was written, and the newest must be the newest that
// was ever seen. Each run must end with the bits of one that was never killed, and tell each step once. A kill takes one
// rank, or all at once, as a machine that loses power does.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { openDevice } from '../dist/backend/open-device.js';
import { CausalLM } from '../dist/models/causal-lm.js';
import '../dist/platform/node.js';
import { Tokenizer } from '../dist/text/tokenizer.js';
import { readCheckpoint } from '../dist/trainer/checkpoint.js';
import { root } from './lib.mjs';

const text = (value) => ({ type: 'string', default: value });
const { values } = parseArgs({
  options: { kills: text('200'), ranks: text('2'), steps: text('40'), seed: text('1') },
});
const kills = Number(values.kills);
const ranks = Number(values.ranks);
const steps = Number(values.steps);
const random = generator(Number(values.seed));
const program = join(root, 'dist/cli/main.js');
const folder = mkdtempSync(join(tmpdir(), 'grpo-soak-'));
const started = performance.now();
const settleTime = 3000;
const longestWait = 1500;

/** Numbers from 0 to 1 that a seed repeats: mulberry32. */
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function fail(message) {
  console.error(`soak: ${message}\nThe folder is kept: ${folder}`);
  process.exit(1);
}

async function writeInputs() {
  const device = await openDevice('cpu', { threads: 1 });
  const shape = {
    ...{ hiddenSize: 16, intermediateSize: 32, numHiddenLayers: 1, numAttentionHeads: 2, numKeyValueHeads: 1 },
    ...{ maxPositionEmbeddings: 64, tieWordEmbeddings: true, initializerRange: 0.2 },
  };
  const policy = CausalLM.create(shape, Tokenizer.fromCharacters('0123456789+=abcdefgh.'), { device, seed: 1 });
  await policy.save(join(folder, 'model'));
  policy.dispose();
  device.close();
  const rows = Array.from({ length: 10 }, (_, i) => `${JSON.stringify({ prompt: `${i}+${i}=` })}\n`);
  writeFileSync(join(folder, 'data.jsonl'), rows.join(''));
  const reward =
    'export const digits = (batch) => batch.map(({ completion }) => completion.replace(/[^0-9]/g, "").length);';
  writeFileSync(join(folder, 'reward.mjs'), reward);
  writeFileSync(
    join(folder, 'run.yaml'),
    `model: model
dataset: data.jsonl
rewards: ./reward.mjs#digits
device: cpu
threads: 1
networkInterface: 127.0.0.1
maxSteps: ${steps}
saveSteps: 1
saveTotalLimit: 3
numGenerations: 4
perDeviceTrainBatchSize: 4
stepsPerGeneration: 2
maxCompletionLength: 8
learningRate: 1e-3
zeroStage: 1
`,
  );
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** Starts all ranks; `training` tells that they have met, and `ended` gives their exit codes (null: killed) and what they said. */
async function start(run, generation) {
  const port = await freePort();
  const children = Array.from({ length: ranks }, (_, rank) => {
    const env = {
      ...{
        ...process.env,
        RANK: `${rank}`,
        LOCAL_RANK: `${rank}`,
        WORLD_SIZE: `${ranks}`,
        LOCAL_WORLD_SIZE: `${ranks}`,
      },
      ...{ MASTER_ADDR: '127.0.0.1', MASTER_PORT: `${port}`, TORCHELASTIC_RESTART_COUNT: `${generation}` },
    };
    const args = [program, 'train', 'run.yaml', '--output-dir', run];
    return spawn(process.execPath, args, { cwd: folder, env, stdio: ['ignore', 'ignore', 'pipe'] });
  });
  let begin = () => {};
  const training = new Promise((resolve) => {
    begin = resolve;
  });
  const ended = Promise.all(
    children.map(async (child) => {
      let said = '';
      child.stderr.on('data', (chunk) => {
        said += chunk;
        if (said.includes('Device: ')) begin();
      });
      const [code] = await once(child, 'close');
      return { code, said };
    }),
  );
  return { children, ended, training };
}

const path = (run, ...rest) => join(folder, run, ...rest);
const finished = (run) =>
  existsSync(path(run))
    ? readdirSync(path(run))
        .flatMap((name) => /^checkpoint-(\d+)$/.exec(name)?.[1] ?? [])
        .map(Number)
    : [];
const weights = (run) => readFileSync(path(run, 'model', 'model.safetensors'));

/** Every checkpoint that has its name must be whole, and the newest that was ever seen must still be there. */
async function check(run, newest) {
  const found = finished(run);
  for (const step of found) {
    await readCheckpoint(path(run, `checkpoint-${step}`)).catch((error) => fail(`step ${step}: ${error.message}`));
  }
  const last = Math.max(0, ...found);
  if (last < newest) fail(`step ${newest} had been finished; the newest checkpoint is now that of step ${last}`);
  return last;
}

function checkEnd(run) {
  if (!weights(run).equals(weights('unbroken'))) fail(`${run} ended with other weights than the unbroken run`);
  const lines = readFileSync(path(run, 'metrics.jsonl'), 'utf8').trim().split('\n');
  const told = lines.map((line) => JSON.parse(line).step);
  if (told.join() !== Array.from({ length: steps }, (_, i) => i + 1).join()) fail(`${run} tells the steps ${told}`);
}

await writeInputs();
const unbroken = await start('unbroken', 0);
const startedUnbroken = performance.now();
await unbroken.training;
const startTime = performance.now() - startedUnbroken;
for (const { code, said } of await unbroken.ended) if (code !== 0) fail(`the unbroken run ended with ${code}: ${said}`);
const trainingTime = performance.now() - startedUnbroken - startTime;
console.log(`unbroken run: ${steps} steps on ${ranks} ranks in ${((startTime + trainingTime) / 1000).toFixed(1)} s`);

let killed = 0;
let runs = 0;
let resumes = 0;
const at = new Map();
while (killed < kills) {
  const run = `run-${++runs}`;
  let newest = 0;
  for (let generation = 0; ; generation++) {
    const { children, ended, training } = await start(run, generation);
    let done = false;
    ended.then(() => {
      done = true;
    });
    // One in ten while the processes start and meet, the others anywhere in what follows.
    const early = random() < 0.1;
    const delay = random() * (early ? startTime : Math.min(trainingTime, longestWait));
    if (killed < kills && !early) await Promise.race([training, ended]);
    if (killed < kills) await Promise.race([sleep(delay), ended]);
    if (!done && killed < kills) {
      const all = random() < 0.25;
      const victims = all ? children : [children[Math.floor(random() * ranks)]];
      const seen = Math.max(newest, ...finished(run));
      const phase = readdirSync(folder).includes(run)
        ? readdirSync(path(run)).some((name) => name.endsWith('.partial'))
          ? 'while a checkpoint was written'
          : seen > 0
            ? 'between checkpoints'
            : 'before the first checkpoint'
        : 'before the run began';
      for (const victim of victims) victim.kill('SIGKILL');
      killed++;
      at.set(phase, (at.get(phase) ?? 0) + 1);
      // As a launcher does: those that do not end by themselves, since they still wait for the others to join, are ended.
      await Promise.race([sleep(settleTime), ended]);
      for (const child of children) child.kill('SIGKILL');
      const results = await ended;
      for (const { code, said } of results) {
        // null: killed. 75: noticed it. 0: had finished.
        if (![null, 75, 0].includes(code)) fail(`a rank ended with ${code}: ${said}`);
      }
      newest = await check(run, seen);
      resumes += newest > 0 ? 1 : 0;
      if (killed % 10 === 0) console.log(`${killed} kills, ${runs} runs, step ${newest} of ${steps}`);
      if (results.every(({ code }) => code === 0)) break;
      continue;
    }
    const results = await ended;
    for (const { code, said } of results) if (code !== 0) fail(`a rank ended with ${code}: ${said}`);
    break;
  }
  await check(run, newest);
  checkEnd(run);
  rmSync(path(run), { recursive: true });
}
const phases = [...at].map(([phase, count]) => `${count} ${phase}`).join(', ');
const seconds = Math.round((performance.now() - started) / 1000);
console.log(
  `${killed} kills (${phases}), ${resumes} resumed from a checkpoint, ${runs} runs of ${steps} steps to their end`,
);
console.log(
  `No finished step was lost, no checkpoint was damaged, all runs ended with the bits of the unbroken one (${seconds} s).`,
);
rmSync(folder, { recursive: true });
