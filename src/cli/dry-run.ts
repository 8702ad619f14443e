import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { encodePrompt } from '../data/encode.js';
import { activationsOf } from '../models/activations.js';
import { type ModelConfig, parseConfig } from '../models/config.js';
import { fileSystem } from '../platform/files.js';
import { readJsonObject } from '../platform/read-json.js';
import { knownModel } from '../recipes/raif/models.js';
import type { Reward } from '../rewards/reward.js';
import { checkRows } from '../rewards/score.js';
import { Tokenizer } from '../text/tokenizer.js';
import type { GRPOConfig } from '../trainer/config.js';
import { estimateMemory, parameterCount, planRun, promptsPerUpdate } from '../trainer/plan.js';
import type { TrainRun } from './run-config.js';
import { readTrainData, type TrainData } from './train-data.js';

/** Used where no data is there to measure and the configuration sets no bound. */
const assumedPromptTokens = 512;

/** What a run on `worldSize` ranks would do, as text. Reads what is there of model and data; what is absent is said. */
export async function dryRun(
  run: TrainRun,
  config: GRPOConfig,
  rewards: readonly Reward[],
  worldSize = 1,
): Promise<string> {
  const absent = [run.model, ...run.dataset, ...run.evalDataset, ...run.demonstrations].filter(
    (path) => !existsSync(path),
  );
  const data = absent.length === 0 ? await readTrainData(run, config) : null;
  checkRows('dataset', data?.dataset ?? [], rewards);
  checkRows('evalDataset', data?.evalDataset ?? [], rewards);
  const model = await modelOf(run.model);
  const promptTokens = data ? await longestPrompt(run, config, data) : null;
  const bound = promptTokens ?? config.maxPromptLength ?? run.raif?.maxPromptTokens ?? assumedPromptTokens;
  return [
    section('Files', [
      ['model', shown(run.model)],
      ...run.dataset.map((path) => ['dataset', shown(path)] as const),
      ...run.evalDataset.map((path) => ['evalDataset', shown(path)] as const),
      ...run.demonstrations.map((path) => ['demonstrations', shown(path)] as const),
      ['outputDir', run.outputDir ?? ''],
      ...(run.engine ? [['engine', `${run.engine.kind} at ${run.engine.url}`] as const] : []),
    ]),
    ...(data ? [section('Data', dataLines(data, promptTokens!)), ...data.notes, ''] : []),
    section(worldSize === 1 ? 'Plan' : `Plan of ${worldSize} ranks together`, planLines(config, data, worldSize)),
    ...(model
      ? [section('Memory of a device (estimate)', memoryLines(model, run, config, { promptTokens: bound, worldSize }))]
      : []),
    ...(model ? [] : ['Memory: the model is not here, so its size is not known.', '']),
  ].join('\n');
}

async function modelOf(folder: string): Promise<ModelConfig | null> {
  const file = `${folder}/config.json`;
  return existsSync(file) ? parseConfig(await readJsonObject(file, fileSystem()), file) : knownModel(basename(folder));
}

async function longestPrompt(run: TrainRun, config: GRPOConfig, { dataset }: TrainData): Promise<number> {
  const tokenizer = await Tokenizer.load(run.model);
  return dataset.reduce(
    (most, record) => Math.max(most, encodePrompt(record, tokenizer, config.maxPromptLength).ids.length),
    0,
  );
}

type Line = readonly [string, string];

function dataLines({ dataset, evalDataset, demonstrations }: TrainData, promptTokens: number): Line[] {
  return [
    ['prompts', `${number(dataset.length)}, the longest of ${number(promptTokens)} tokens`],
    ...(evalDataset ? [['held-out prompts', number(evalDataset.length)] as const] : []),
    ...(demonstrations ? [['demonstrations', number(demonstrations.length)] as const] : []),
  ];
}

function planLines(config: GRPOConfig, data: TrainData | null, worldSize: number): Line[] {
  const plan = planRun(config, data?.dataset.length ?? null, worldSize);
  const { directCompletions: direct } = plan;
  const each =
    direct > 0
      ? `${config.numGenerations} (${direct} without thinking, where contrast applies)`
      : config.numGenerations;
  const perThousand = Math.floor(1000 / promptsPerUpdate(config, worldSize));
  return [
    [
      'a generation',
      `${number(plan.promptsPerGeneration)} prompts x ${each} = ${number(plan.completionsPerGeneration)} completions`,
    ],
    [
      'an update',
      `${number(plan.completionsPerUpdate)} completions, ${number(plan.demonstrationsPerUpdate)} demonstrations`,
    ],
    ['updates of a generation', number(plan.updatesPerGeneration)],
    plan.totalUpdates === null
      ? ['updates', `${config.numTrainEpochs} passes, each of ${perThousand} for 1,000 prompts (the data is not here)`]
      : ['updates', number(plan.totalUpdates)],
    ...plan.learningRates.map(
      ({ update, learningRate }) =>
        [`learning rate of update ${number(update)}`, learningRate.toExponential(3)] as const,
    ),
    ...(plan.totalUpdates === null ? [['learning rate', `${config.learningRate} at its peak`] as const] : []),
  ];
}

function memoryLines(
  model: ModelConfig,
  run: TrainRun,
  config: GRPOConfig,
  { promptTokens, worldSize }: { promptTokens: number; worldSize: number },
): Line[] {
  const { dtype, device, devices } = run;
  const onCuda = (devices?.[0] ?? device).startsWith('cuda');
  const activations = activationsOf(run.activations, onCuda ? 'cuda' : 'cpu', dtype);
  const { total, ...parts } = estimateMemory(model, config, { dtype, activations, promptTokens, worldSize });
  return [
    ['parameters', number(parameterCount(model))],
    ['for prompts of', `${number(promptTokens)} tokens`],
    ...Object.entries(parts).map(([name, bytes]) => [name, gibibytes(bytes)] as const),
    ['total', gibibytes(total)],
  ];
}

function section(heading: string, lines: readonly Line[]): string {
  const width = Math.max(...lines.map(([name]) => name.length)) + 2;
  return [heading, ...lines.map(([name, text]) => `  ${name.padEnd(width)}${text}`), ''].join('\n');
}

function shown(path: string): string {
  return existsSync(path) ? path : `${path} (not here)`;
}

function number(value: number): string {
  return value.toLocaleString('en-US', { maximumFractionDigits: 2 });
}

function gibibytes(bytes: number): string {
  return bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(1)} MiB` : `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
