import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import '../../src/platform/node.js';
import { saveTinyModel } from '../saved-model.js';

const program = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
let folder = '';
// Each test starts one to four processes, which a busy machine starts slowly.
vi.setConfig({ testTimeout: 120_000 });

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'grpo-cli-'));
  await saveTinyModel(join(folder, 'model'));
  const rows = Array.from({ length: 12 }, (_, i) => ({ prompt: `${i}+${i}=`, completion: `${2 * i}` }));
  await writeFile(join(folder, 'data.jsonl'), rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  // Slow enough that a signal arrives in the middle of a run.
  const reward = `export const digits = async (batch) => {
    await new Promise((resolve) => setTimeout(resolve, 50));
    return batch.map(({ completion }) => (completion.match(/[0-9]/g) ?? []).length / 8);
  };`;
  await writeFile(join(folder, 'reward.mjs'), reward);
  const config = `model: model
dataset: data.jsonl
evalDataset: data.jsonl
rewards: ./reward.mjs#digits
device: cpu
threads: 1
maxSteps: 6
numGenerations: 4
perDeviceTrainBatchSize: 8
maxCompletionLength: 8
learningRate: 1e-3
evalSteps: 3
`;
  await writeFile(join(folder, 'run.yaml'), config);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

interface Result {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs the command line in the test's folder; `onError` sees standard error as it comes. */
async function grpo(args: string[], onError: (text: string, child: ChildProcess) => void = () => {}): Promise<Result> {
  const child = spawn(process.execPath, [program, ...args], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
  const result: Result = { code: null, stdout: '', stderr: '' };
  child.stdout.on('data', (text) => {
    result.stdout += text;
  });
  child.stderr.on('data', (text) => {
    result.stderr += text;
    onError(result.stderr, child);
  });
  [result.code] = (await once(child, 'close')) as [number | null];
  return result;
}

/** A row of test/fixtures/models/score.json, which scripts/fixtures/models_score.py writes. */
interface ScoredPair {
  prompt: string;
  completion: string;
  promptTokens: number;
  completionIds: number[];
  logProbs: number[];
}

async function jsonLines(path: string): Promise<Record<string, unknown>[]> {
  const text = await readFile(join(folder, path), 'utf8');
  return text.split('\n').flatMap((line) => (line ? [JSON.parse(line)] : []));
}

/** What a run measured, apart from times. */
async function measured(run: string): Promise<Record<string, unknown>[]> {
  const rows = await jsonLines(join('runs', run, 'metrics.jsonl'));
  return rows.map(({ time: _, step_seconds: _s, tokens_per_second: _t, ...rest }) => rest);
}

describe('grpo', () => {
  it.each([
    [[], /train .*sft .*generate .*score .*doctor/s],
    [
      ['train'],
      /--resume.*--rewards <text>.*--num-generations <integer>.*--learning-rate <number>.*--no-shuffle-dataset/s,
    ],
    [['sft'], /--max-length <integer>.*--learning-rate <number>/s],
    [['generate'], /--prompt <text>.*--temperature <number>/s],
    [['score'], /--data <file>/],
    [['doctor'], /--json/],
    [['quickstart'], /--device <name>.*--out <folder>.*--steps <integer>.*--seed <integer>/s],
  ])('%j has --help', async (command, expected) => {
    const { code, stdout } = await grpo([...command, '--help']);
    expect(code).toBe(0);
    expect(stdout.replace(/ +\[/g, ' [')).toMatch(expected);
  });

  it.each([
    [['tran'], /Did you mean train\?/],
    [['train', '--num-generation', '4'], /Did you mean --num-generations\?/],
    [['train', 'absent.yaml'], /absent\.yaml: cannot read the configuration: there is no such file/],
    [['train'], /model: .*\n.*dataset: /s],
    [['train', 'run.yaml', '--loss-type', 'ppo'], /--loss-type: lossType: /],
    [['train', 'run.yaml', '--rewards', 'formatt'], /--rewards: rewards\[0\]: .*did you mean format\?/],
    [['train', 'run.yaml', '--resume'], /has no checkpoint/],
    [['generate', '--model', 'model'], /either --prompt or --data/],
  ])('%j ends with 2 and says what is wrong', async (args, expected) => {
    const { code, stderr } = await grpo(args);
    expect(stderr).toMatch(expected);
    expect(stderr).not.toContain('    at ');
    expect(code).toBe(2);
  });

  it('says file and line of bad data, without a stack', async () => {
    await writeFile(join(folder, 'bad.jsonl'), '{"prompt":"1+1="}\n{"prompt":\n');
    const { code, stderr } = await grpo(['train', 'run.yaml', '--dataset', 'bad.jsonl', '--output-dir', 'runs/bad']);
    expect(code).toBe(1);
    expect(stderr).toMatch(/bad\.jsonl:2: not JSON/);
    expect(stderr).not.toContain('    at ');
    expect(existsSync(join(folder, 'runs/bad'))).toBe(false);
  });

  it('doctor tells what the machine offers', async () => {
    const { code, stdout } = await grpo(['doctor', '--json']);
    const { devices, chosen, node } = JSON.parse(stdout);
    expect(code).toBe(0);
    expect(node).toBe(process.version);
    expect(devices.map((device: { kind: string }) => device.kind)).toEqual(['cpu', 'cuda', 'webgpu']);
    for (const device of devices) expect(device.reason).not.toBe('');
    expect(chosen.selfTest.passed).toBe(true);
    expect(chosen.selfTest.gigaflopsPerSecond).toBeGreaterThan(0);
    expect(chosen.details.matmul).toMatch(/^(builtin|openblas)( \(.+\))?$/);
    const text = (await grpo(['doctor'])).stdout;
    expect(text).toMatch(/Self-test +passed/);
    expect(text).toMatch(/^ +isa +(baseline|avx2|avx512)\n +threads +\d+\n +matmul +(builtin|openblas)/m);
  });

  it('score gives the log-prob of each token, to standard output or a file', async () => {
    const { code, stdout } = await grpo(['score', '--model', 'model', '--data', 'data.jsonl', '--threads', '1']);
    expect(code).toBe(0);
    const rows = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(rows).toHaveLength(12);
    expect(rows[11]).toMatchObject({ prompt: '11+11=', completion: '22', tokens: ['2', '2'], promptTokens: 6 });
    expect(rows[11].logProbs).toHaveLength(2);
    for (const { logProbs, logProb } of rows) {
      expect(Math.max(...logProbs)).toBeLessThan(0);
      expect(logProb).toBeCloseTo(
        logProbs.reduce((a: number, b: number) => a + b, 0),
        5,
      );
    }
    await grpo(['score', '--model', 'model', '--data', 'data.jsonl', '--threads', '1', '--out', 'scores.jsonl']);
    expect(await jsonLines('scores.jsonl')).toEqual(rows);

    const inBf16 = async (activations: string) => {
      const formats = ['--dtype', 'bf16', '--activations', activations, '--out', `${activations}.jsonl`];
      await grpo(['score', '--model', 'model', '--data', 'data.jsonl', '--threads', '1', ...formats]);
      return (await jsonLines(`${activations}.jsonl`)).map(({ logProb }) => logProb as number);
    };
    const whole = await inBf16('f32');
    const differences = (await inBf16('bf16')).map((logProb, i) => Math.abs(logProb - whole[i]!));
    expect(Math.max(...differences)).toBeLessThan(0.1);
    expect(Math.min(...differences)).toBeGreaterThan(0);
  });

  it.each(['llama', 'qwen2', 'qwen3', 'mistral'])(
    'score agrees with transformers on a %s folder of its making',
    async (name) => {
      const models = fileURLToPath(new URL('../fixtures/models', import.meta.url));
      const all = JSON.parse(await readFile(join(models, 'score.json'), 'utf8')) as Record<string, ScoredPair[]>;
      const expected = all[name]!;
      const pairs = expected.map(({ prompt, completion }) => `${JSON.stringify({ prompt, completion })}\n`);
      await writeFile(join(folder, `${name}.jsonl`), pairs.join(''));
      const { code, stdout } = await grpo(['score', '--model', join(models, name), '--data', `${name}.jsonl`]);
      expect(code).toBe(0);
      const rows = stdout
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line) as ScoredPair);
      expect(rows).toHaveLength(expected.length);
      for (const [i, { logProbs, ...rest }] of expected.entries()) {
        expect(rows[i]).toMatchObject(rest);
        expect(rows[i]!.logProbs).toHaveLength(logProbs.length);
        const differences = logProbs.map((lp, t) => Math.abs(lp - rows[i]!.logProbs[t]!));
        expect(Math.max(...differences)).toBeLessThan(2e-5);
      }
    },
  );

  it('generate prints text for prompts and JSONL for data, the same for the same seed', async () => {
    const model = ['generate', '--model', 'model', '--max-new-tokens', '5', '--threads', '1'];
    const first = await grpo([...model, '--prompt', '1+1=', '--n', '3']);
    expect(first.code).toBe(0);
    expect((await grpo([...model, '--prompt', '1+1=', '--n', '3'])).stdout).toBe(first.stdout);
    const { stdout } = await grpo([...model, '--data', 'data.jsonl']);
    const rows = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(rows).toHaveLength(12);
    for (const row of rows) {
      expect(row.tokens).toBeLessThanOrEqual(5);
      expect(row.logProb).toBeLessThan(0);
    }
  });

  it('sft trains on demonstrations', async () => {
    const args = ['--model', 'model', '--dataset', 'data.jsonl', '--max-steps', '3', '--threads', '1'];
    const { code, stderr } = await grpo(['sft', ...args, '--output-dir', 'runs/sft', '--learning-rate', '1e-2']);
    expect(stderr).toContain('step 3/3');
    expect(code).toBe(0);
    const losses = (await measured('sft')).map((row) => row.loss as number);
    expect(losses[2]).toBeLessThan(losses[0]!);
  });
});

describe('grpo quickstart', () => {
  it('goes through both stages and tells what they gave', async () => {
    const steps = ['--clone-steps', '2', '--steps', '2'];
    const { code, stdout, stderr } = await grpo(['quickstart', ...steps, '--out', 'runs/quick', '--threads', '1']);
    expect(stderr).toMatch(/clone 2\/2 .*grpo 2\/2 /s);
    expect(code).toBe(0);
    expect(stdout).toMatch(/random weights +[\d.]+ % +[\d.]+ %\ncloned, 2 steps +[\d.]+ %.*\nafter GRPO +[\d.]+ %/);
    expect(await measured('quick')).toHaveLength(3);
    const held = await jsonLines('runs/quick/data/held-out.jsonl');
    expect(held).toHaveLength(256);
    for (const path of ['report.html', 'clone/report.html', 'model/tokenizer.json', 'clone/model/config.json']) {
      expect(existsSync(join(folder, 'runs/quick', path)), path).toBe(true);
    }
    const model = ['--model', 'runs/quick/model', '--prompt', '27+38=', '--max-new-tokens', '4', '--threads', '1'];
    expect((await grpo(['generate', ...model])).code).toBe(0);
  });
});

describe('a run of grpo train', () => {
  const whole = ['train', 'run.yaml', '--output-dir', 'runs/whole'];
  let first: Result;
  beforeAll(async () => {
    first = await grpo(whole);
  }, 120_000);

  it('leaves a folder with everything about it', async () => {
    const { code, stderr } = first;
    expect(stderr).toMatch(/step 6\/6 {2}reward/);
    expect(code).toBe(0);
    const names = await readdir(join(folder, 'runs/whole'));
    const expected = ['completions.jsonl', 'config.yaml', 'metrics.jsonl', 'model', 'report.html', 'tensorboard'];
    expect(names.sort()).toEqual(expected);
    expect((await measured('whole')).map((row) => row.step)).toEqual([1, 2, 3, 4, 5, 6]);
    const completions = await jsonLines('runs/whole/completions.jsonl');
    expect(completions.filter((row) => row.split === 'train')).toHaveLength(6 * 8);
    expect(completions.filter((row) => row.split === 'eval')).toHaveLength(2 * 12);
    expect(await readdir(join(folder, 'runs/whole/tensorboard'))).toHaveLength(1);
    expect(await readFile(join(folder, 'runs/whole/report.html'), 'utf8')).toContain('rewards/digits/mean');
  });

  it('is not overwritten by another', async () => {
    const { code, stderr } = await grpo(whole);
    expect(stderr).toContain('already holds a run');
    expect(code).toBe(2);
  });

  it('ends after the step at Ctrl-C, with a checkpoint that --resume continues to the same bits', async () => {
    let sent = false;
    const stopped = await grpo(['train', 'run.yaml', '--output-dir', 'runs/stopped'], (text, child) => {
      if (sent || !text.includes('step 1/6')) return;
      sent = true;
      child.kill('SIGINT');
    });
    expect(stopped.stderr).toContain('Finishing this step, then saving');
    expect(stopped.stderr).toMatch(/Stopped after step [1-5] of 6\. Checkpoint: .*checkpoint-[1-5]/);
    expect(stopped.code).toBe(130);
    const command = /Resume with: grpo (.*)/.exec(stopped.stderr)![1]!;
    expect(command).toBe('train runs/stopped/config.yaml --resume');

    const resumed = await grpo(command.split(' '));
    expect(resumed.stderr).toMatch(/Resumed from .*checkpoint-[1-5]/);
    expect(resumed.code).toBe(0);
    expect(await measured('stopped')).toEqual(await measured('whole'));
    const weights = (run: string) => readFile(join(folder, 'runs', run, 'model/model.safetensors'));
    expect(await weights('stopped')).toEqual(await weights('whole'));
  });

  it('ends at once at the second Ctrl-C', async () => {
    let sent = 0;
    const args = ['train', 'run.yaml', '--output-dir', 'runs/twice', '--max-steps', '100000'];
    const { code, stderr } = await grpo(args, (text, child) => {
      if (sent === 0 && text.includes('step 1/')) {
        sent = 1;
        child.kill('SIGINT');
      } else if (sent === 1 && text.includes('Finishing this step')) {
        sent = 2;
        child.kill('SIGINT');
      }
    });
    expect(code).toBe(130);
    expect(stderr).not.toContain('Checkpoint:');
    // What it had recorded can still be made into a report.
    expect((await grpo(['report', 'runs/twice'])).code).toBe(0);
  });
});
