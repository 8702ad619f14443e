import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { resolveLaunchEnvironment } from '../../distributed/launch-environment.js';
import { type Cluster, type DevicePlan, h100Cluster, planDevices } from '../../distributed/plan.js';
import { type ActivationDType, activationsOf } from '../../models/activations.js';
import { type ModelConfig, parseConfig } from '../../models/config.js';
import { fileSystem } from '../../platform/files.js';
import { readJsonObject } from '../../platform/read-json.js';
import { knownModel, knownModels } from '../../recipes/raif/models.js';
import { ConfigError, parseGRPOConfig } from '../../trainer/parse-config.js';
import { parameterCount } from '../../trainer/plan.js';

export interface PlanFlags {
  model: string;
  dtype: 'f32' | 'bf16';
  activations?: ActivationDType;
  devices?: number[];
  zeroStage?: number[];
  batchSize: number;
  accumulation: number;
  promptTokens: number;
  completionTokens: number;
  gradientCheckpointing: boolean;
  reference: 'kept' | 'elsewhere' | 'none';
  deviceMemory: number;
  devicesPerNode: number;
  intraBandwidth: number;
  interBandwidth: number;
  peakFlops: number;
  memoryBandwidth: number;
  utilisation: number;
  overlap: number;
  json?: boolean;
}

export async function plan(flags: PlanFlags): Promise<void> {
  const problems = [...problemsOf(flags)];
  if (problems.length > 0) throw new ConfigError('plan', problems);
  const model = await modelOf(flags.model);
  const ranks = resolveLaunchEnvironment(process.env)?.worldSize;
  const config = parseGRPOConfig(
    {
      perDeviceTrainBatchSize: flags.batchSize,
      gradientAccumulationSteps: flags.accumulation,
      maxCompletionLength: flags.completionTokens,
      gradientCheckpointing: flags.gradientCheckpointing,
      beta: flags.reference === 'none' ? 0 : 0.04,
    },
    'plan',
    { generates: false },
  );
  const cluster: Cluster = {
    ...h100Cluster,
    devicesPerNode: flags.devicesPerNode,
    intraNodeBandwidth: flags.intraBandwidth * 1e9,
    interNodeBandwidth: flags.interBandwidth * 1e9,
    peakFlops: flags.peakFlops * 1e12,
    memoryBandwidth: flags.memoryBandwidth * 1e9,
    utilisation: flags.utilisation,
    overlap: flags.overlap,
  };
  const { dtype, promptTokens } = flags;
  const activations = activationsOf(flags.activations, 'cuda', dtype);
  const plans = planDevices(
    { model, config, dtype, activations, promptTokens, referenceElsewhere: flags.reference === 'elsewhere' },
    { worldSizes: flags.devices ?? (ranks ? [ranks] : [1, 8, 64, 1024]), zeroStages: flags.zeroStage ?? [0, 1, 2] },
    cluster,
  );
  const text = flags.json
    ? `${JSON.stringify({ parameters: parameterCount(model), cluster, plans }, null, 2)}\n`
    : describe(model, { ...flags, activations }, cluster, plans);
  process.stdout.write(text);
}

function* problemsOf(flags: PlanFlags): Generator<string> {
  const positive = [
    ...(['batchSize', 'accumulation', 'promptTokens', 'completionTokens', 'deviceMemory', 'devicesPerNode'] as const),
    ...(['intraBandwidth', 'interBandwidth', 'peakFlops', 'memoryBandwidth', 'utilisation'] as const),
  ];
  const flagOf = (name: string) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
  for (const name of positive) {
    if (!(flags[name] > 0)) yield `${flagOf(name)}: must be greater than 0, got ${flags[name]}`;
  }
  for (const name of ['utilisation', 'overlap'] as const) {
    if (flags[name] > 1 || flags[name] < 0) yield `${flagOf(name)}: must be a share from 0 to 1, got ${flags[name]}`;
  }
  for (const count of flags.devices ?? []) {
    if (!(count >= 1 && count <= 1024)) yield `--devices: must be from 1 to 1024, got ${count}`;
  }
  for (const stage of flags.zeroStage ?? []) {
    if (![0, 1, 2].includes(stage)) yield `--zero-stage: must be 0, 1 or 2, got ${stage}`;
  }
}

async function modelOf(name: string): Promise<ModelConfig> {
  const file = name.endsWith('.json') ? name : `${name}/config.json`;
  if (existsSync(file)) return parseConfig(await readJsonObject(file, fileSystem()), file);
  const known = knownModel(basename(name));
  if (known) return known;
  throw new ConfigError('plan', [
    `--model: ${name} is neither a folder with a config.json, nor such a file, nor one of ${knownModels.join(', ')}`,
  ]);
}

function describe(
  model: ModelConfig,
  flags: PlanFlags & { activations: ActivationDType },
  cluster: Cluster,
  plans: readonly DevicePlan[],
): string {
  const rows = flags.batchSize * flags.accumulation;
  const columns = [
    'devices',
    'ZeRO',
    'weights',
    'reference',
    'gradients',
    'optimiser',
    'activations',
    'logits',
    'cache',
  ];
  const header = [...columns, 'total', 'sent/update', 'seconds/update', 'efficiency'];
  const table = plans.map(({ worldSize, zeroStage, memory, traffic, time }) => [
    worldSize.toLocaleString('en-US'),
    String(zeroStage),
    ...[memory.weights, memory.reference, memory.gradients, memory.optimizer].map(size),
    ...[memory.activations, memory.logits, memory.cache].map(size),
    `${size(memory.total)}${memory.total > flags.deviceMemory * 2 ** 30 ? ' (!)' : ''}`,
    size(traffic.total),
    time.total.toFixed(2),
    percent(time.efficiency),
  ]);
  const { intraNodeBandwidth: intra, interNodeBandwidth: inter, intraNodeLatency, interNodeLatency } = cluster;
  return [
    `${parameterCount(model).toLocaleString('en-US')} parameters, ${flags.dtype}, activations ${flags.activations}, ${rows} completions a device and update,`,
    `${flags.promptTokens} prompt and ${flags.completionTokens} completion tokens each` +
      `${flags.gradientCheckpointing ? ', gradient checkpointing' : ''}. Memory is of one device.`,
    '',
    ...formatTable([header, ...table]),
    '',
    `(!) is more than the ${flags.deviceMemory} GiB of a device. What is sent is of one rank.`,
    'Assumed, for the time, which is a model and not a measurement:',
    `  ${cluster.devicesPerNode} devices a machine; ${intra / 1e9} GB/s from a device inside it, ${inter / 1e9} GB/s from all of a machine to others`,
    `  ${intraNodeLatency * 1e6} us and ${interNodeLatency * 1e6} us for a message; ${percent(cluster.overlap)} of the exchange of gradients behind computation`,
    `  ${cluster.peakFlops / 1e12} TFLOP/s, of which training reaches ${percent(cluster.utilisation)}; ${cluster.memoryBandwidth / 1e9} GB/s of memory, of which sampling reaches ${percent(cluster.memoryUtilisation)}`,
    '  rings inside a machine and between machines; every completion as long as it may be; rewards take no time',
    '',
  ].join('\n');
}

function formatTable(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows.map((row) => row.map((text, column) => text.padStart(widths[column]!)).join('  '));
}

function size(bytes: number): string {
  if (bytes === 0) return '0';
  return bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(1)} MiB` : `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}
