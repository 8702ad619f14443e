import { createTask, rowsOf } from '../../../../examples/raif/task.js';
import { CausalLM } from '../../../../src/models/causal-lm.js';
import { parseRaifDemonstrations, parseRaifPrompts } from '../../../../src/recipes/raif/data.js';
import { raifRewards } from '../../../../src/recipes/raif/rewards.js';
import { renderPrompt } from '../../../../src/recipes/raif/templates.js';
import type { JudgeModel } from '../../../../src/rewards/judge.js';
import type { Device } from '../../../../src/tensor.js';
import { Tokenizer } from '../../../../src/text/tokenizer.js';
import type { TrackedCompletion } from '../../../../src/tracking/tracker.js';
import { withoutThinkingRoom } from '../../../../src/trainer/contrast.js';
import { GRPOTrainer } from '../../../../src/trainer/grpo-trainer.js';
import { SFTTrainer } from '../../../../src/trainer/sft-trainer.js';
import { tinyShape } from '../../../tiny-model.js';

export interface GoldenRun {
  updates: { loss: number; gradNorm: number; learningRate: number; metrics: Record<string, number> }[];
  verdicts: Pick<TrackedCompletion, 'step' | 'prompt' | 'completion' | 'rewards' | 'reward' | 'advantage'>[];
}

/** Looks for the word of the question in the answer, and has no verdict on answers with a rock. */
const judge: JudgeModel = {
  answer: async (messages) => {
    const text = messages.at(-1)!.content;
    const [, answer, word] = /# Answer\n\n(.*)\n\n# Question\n\nDoes it say (\w+)\?/s.exec(text)!;
    if (answer!.includes('rock')) return { problem: 'unclear', message: 'a rock' };
    return answer!.includes(word!) ? 'yes' : 'no';
  },
};

const sums = [
  [2, 3],
  [4, 1],
  [3, 3],
] as const;

/** What the first teacher says of a word, with and without thinking: as well, worse, and beyond the judge. */
const tellings = [
  { word: 'sun', thinking: ' sun moon', direct: ' sun moon' },
  { word: 'tree', thinking: ' tree', direct: ' tree moon' },
  { word: 'lake', thinking: ' lake rock', direct: ' lake moon' },
];

/** Rows of maths and rows for the judge, and replies to them, two a row. */
function otherRows() {
  const maths = sums.map(([a, b]) => {
    const target = String(a + b);
    const answer = `\\boxed{${target}}`;
    return {
      row: { input: renderPrompt('base', { user: ` add ${a} ${b}.` }), target },
      thinking: answer,
      direct: answer,
    };
  });
  const judged = tellings.map(({ word, thinking, direct }) => {
    const label = {
      scoring_questions: [`Does it say ${word}?`, 'Does it say moon?'],
      'scoring_sum_qwen2.5-7B-Instruct': 1,
    };
    const input = renderPrompt('base', { user: ` tell ${word}.` });
    return { row: { input, task: 'complex', target: JSON.stringify(label) }, thinking, direct };
  });
  const rows = [...maths, ...judged];
  return {
    rows: rows.map(({ row }) => row),
    replies: rows.flatMap(({ row, thinking, direct }) => [
      { prompt: `${row.input}<think>\n`, completion: ` say</think><answer>${thinking}</answer>` },
      { prompt: withoutThinkingRoom(row.input), completion: `<answer>${direct}</answer>` },
    ]),
  };
}

function createTokenizer(texts: readonly string[]): Tokenizer {
  const words = texts.flatMap((text) => text.match(/<\/?[a-z]+>| [a-z]+/g) ?? []);
  return Tokenizer.fromCharacters('0123456789 ,.\n:\\{}', {
    words: [...new Set(words), 'User:', '\nAssistant:', '\\boxed{'],
  });
}

function lines(rows: readonly object[]): string {
  return rows.map((row) => JSON.stringify(row)).join('\n');
}

/**
 * RAIF's recipe from one end to the other: a tiny model is cloned from a flawed teacher, then updated on rows of all three
 * kinds with contrast, cloning, KL and two updates a rollout. What comes back depends on no clock and no file.
 */
export async function goldenRun(device: Device): Promise<GoldenRun> {
  const task = createTask(5, { train: 24, heldOut: 0, start: 192, experts: 24 });
  const instructions = rowsOf(task.train.slice(0, 6), [2, 1, 3, 2, 2, 1]);
  const others = otherRows();
  const start = [...task.start, ...Array.from({ length: 6 }, () => others.replies).flat()];
  const tokenizer = createTokenizer(start.flatMap(({ prompt, completion }) => [prompt!, completion]));
  using policy = CausalLM.create(tinyShape, tokenizer, { device, seed: 3 });
  {
    await using trainer = await SFTTrainer.create({
      policy,
      dataset: start,
      maxSteps: 60,
      perDeviceTrainBatchSize: 16,
      learningRate: 1e-2,
      seed: 3,
    });
    await trainer.train();
  }
  const experts = task.experts.map(({ prompt, completion }) => ({ question: prompt, answer: completion }));
  await using trainer = await GRPOTrainer.create({
    policy,
    dataset: [...instructions, ...parseRaifPrompts(lines(others.rows), 'others.jsonl').records],
    demonstrations: parseRaifDemonstrations(lines(experts), 'experts.jsonl').records,
    rewards: raifRewards({ judge, repetition: 0.1 }),
    contrast: { share: 0.25, score: 'answer', met: 'constraints_met' },
    sftCoefficient: 0.5,
    sftBatchSize: 4,
    numGenerations: 8,
    perDeviceTrainBatchSize: 8,
    gradientAccumulationSteps: 2,
    stepsPerGeneration: 4,
    maxCompletionLength: 24,
    maxSteps: 6,
    learningRate: 1e-3,
    lrSchedulerType: 'cosine',
    minLearningRateRatio: 0.1,
    warmupSteps: 2,
    warmupFromZero: false,
    lossType: 'grpo',
    beta: 0.1,
    adamBeta2: 0.95,
    seed: 3,
  });
  const updates: GoldenRun['updates'] = [];
  const verdicts: GoldenRun['verdicts'] = [];
  for await (const { loss, gradNorm, learningRate, metrics, completions } of trainer) {
    const { step_seconds, tokens_per_second, ...measured } = metrics;
    updates.push({ loss, gradNorm, learningRate, metrics: measured });
    for (const { step, prompt, completion, rewards, reward, advantage } of completions) {
      verdicts.push({ step, prompt, completion, rewards, reward, advantage });
    }
  }
  return { updates, verdicts };
}
