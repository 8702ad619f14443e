import { stringify } from 'yaml';

/** One of RAIF's published scripts: what sets it apart from the base. */
interface PublishedRun {
  /** Of the file in `recipes/raif/`, and of the run's folder. */
  name: string;
  /** The published script that it stands for. */
  script: string;
  remark: string;
  /** GPUs of the published run: actor and reference, judge, sampling. */
  gpus: string;
  options: Record<string, unknown>;
}

const gpus16 = '4 / 4 / 8';
const gpus4 = '1 / 1 / 2';
const mixedFile = '数学_全量指令_ratio_1_1_combined.jsonl';
const suffix = '1_1_complex_ifeval_sft_sup';

/**
 * What all runs share. Batches are counted in completions: 32 prompts with 8 completions each are sampled at a time and
 * make two updates.
 */
const base = {
  dataset: `../../data/DeepScaleR-IFEval-Complex/${mixedFile}`,
  demonstrations: '../../data/IFEval-Complex/Qwen2.5-7B-Instruct/all_data.jsonl',
  raif: { mix: { maths: 1, instructions: 1 }, maxPromptTokens: 8192, maxDemonstrationTokens: 12_288 },
  rewards: [{ name: 'raif', judge: { url: 'http://127.0.0.1:8000/v1', model: 'Qwen2.5-7B-Instruct' } }],
  dtype: 'bf16',
  contrast: { share: 0.25, score: 'answer', met: 'constraints_met' },
  sftCoefficient: 1,
  numGenerations: 8,
  temperature: 1,
  topP: 1,
  maxCompletionLength: 4096,
  perDeviceTrainBatchSize: 4,
  gradientAccumulationSteps: 32,
  stepsPerGeneration: 64,
  gradientCheckpointing: true,
  lossType: 'grpo',
  scaleRewards: 'group',
  epsilon: 0.2,
  beta: 0.001,
  klEstimator: 'k3',
  useBiasCorrectionKl: false,
  learningRate: 1e-6,
  lrSchedulerType: 'cosine',
  minLearningRateRatio: 0.1,
  warmupRatio: 0.03,
  warmupFromZero: false,
  adamBeta1: 0.9,
  adamBeta2: 0.95,
  weightDecay: 0,
  maxGradNorm: 1,
  numTrainEpochs: 30,
  saveSteps: 100,
  saveTotalLimit: 2,
  seed: 42,
};

/** The policy, with the data that is rendered in its template. */
function own(model: string): Record<string, unknown> {
  return {
    model: `../../models/${model}`,
    dataset: `../../data/DeepScaleR-IFEval-Complex/${model}/${mixedFile}`,
    demonstrations: `../../data/IFEval-Complex/${model}/all_data.jsonl`,
  };
}

const short = {
  maxCompletionLength: 1024,
  raif: { ...base.raif, maxDemonstrationTokens: 9216 },
};
const qwen7B = { model: '../../models/Qwen2.5-7B-Instruct' };
const qwen1_5B = { model: '../../models/Qwen2.5-1.5B-Instruct' };
const noCloning = { demonstrations: undefined, sftCoefficient: 0 };
const unmixed = { ...base.raif, mix: null };

export const publishedRuns: readonly PublishedRun[] = [
  run('qwen2.5-7b', `grpo_qwen_${suffix}`, gpus16, qwen7B),
  run('deepseek-qwen-7b', `grpo_qwen-deepseek_${suffix}`, gpus16, own('DeepSeek-R1-Distill-Qwen-7B')),
  run(
    'llama-3.1-8b',
    `grpo_llama_${suffix}`,
    gpus16,
    { ...own('Llama-3.1-8B-Instruct'), ...short, saveSteps: 20, saveTotalLimit: 1 },
    'short completions',
  ),
  run(
    'ministral-8b',
    `grpo_mistral_${suffix}`,
    gpus16,
    { ...own('Ministral-8B-Instruct-2410'), ...short },
    'short completions',
  ),
  run('qwen2.5-1.5b', `grpo_qwen1-5B_${suffix}`, gpus4, qwen1_5B, 'expert replies of the 7B model'),
  run('deepseek-qwen-1.5b', `grpo_qwen1-5B-deepseek_${suffix}`, gpus4, own('DeepSeek-R1-Distill-Qwen-1.5B')),
  run('deepscaler-1.5b', `grpo_qwen1-5B-ds_${suffix}`, gpus4, own('DeepScaleR-1.5B-Preview')),
  run(
    'ablation-no-cloning-no-contrast',
    'grpo_qwen_1_1_complex_ifeval',
    gpus16,
    { ...qwen7B, ...noCloning, contrast: null },
    'neither cloning nor contrast',
  ),
  run('ablation-no-cloning', 'grpo_qwen_1_1_complex_ifeval_sup', gpus16, { ...qwen7B, ...noCloning }, 'no cloning'),
  run('ablation-four-gpus', `grpo_qwen_${suffix} (ablation)`, gpus4, qwen7B, 'the main run on fewer GPUs'),
  run(
    'ablation-less-maths',
    'grpo_qwen_0.2_1_complex_ifeval_sft_sup',
    gpus16,
    { ...qwen7B, raif: { ...base.raif, mix: { maths: 0.2, instructions: 1 } } },
    'maths to instructions 0.2 : 1',
  ),
  run(
    'ablation-instructions-only',
    'grpo_qwen_complex_ifeval_sft_sup',
    gpus4,
    { ...qwen7B, dataset: '../../data/IFEval-Complex/dataset_split_wCOT_all.jsonl', raif: unmixed },
    'no maths',
  ),
  run(
    'ablation-all-data',
    'grpo_qwen_full_complex_ifeval_sft_sup',
    gpus16,
    { ...qwen7B, dataset: '../../data/DeepScaleR-IFEval-Complex/全量数据_combined.jsonl', raif: unmixed },
    'all rows, whatever their ratio',
  ),
  run(
    'ablation-r1-demonstrations',
    `grpo_qwen1-5B_${suffix} (ablation)`,
    gpus4,
    { ...qwen1_5B, demonstrations: '../../data/IFEval-Complex/deepseek-r1/all_data.jsonl' },
    'expert replies of DeepSeek-R1',
  ),
];

function run(name: string, script: string, gpus: string, options: Record<string, unknown>, remark = ''): PublishedRun {
  return { name, script, gpus, remark, options: { ...base, ...options, outputDir: `../../runs/raif-${name}` } };
}

/** Whole options of a run, paths as in a file two folders below the working folder. */
export function renderRun({ script, remark, options }: PublishedRun): string {
  const { model, outputDir, ...rest } = options;
  const heading = [
    `# RAIF: stands for the published ${script}${remark ? `: ${remark}` : ''}.`,
    '# Written by scripts/write-raif-recipes.ts from src/recipes/raif/published-runs.ts. docs/raif.md explains it.',
  ];
  return `${heading.join('\n')}\n${stringify({ model, outputDir, ...rest }, { lineWidth: 0, aliasDuplicateObjects: false })}`;
}

/** The table of docs/raif.md. */
export function runsTable(): string {
  const rows = publishedRuns.map(({ name, script, gpus, remark, options }) => {
    const model = String(options.model).split('/').at(-1);
    const cells = [`\`raif/${name}\``, `\`${script}\``, model, String(options.maxCompletionLength), gpus, remark];
    return `| ${cells.join(' | ')} |`;
  });
  return [
    '| Configuration | Published script | Policy | Tokens of a completion | Published GPUs | Differs by |',
    '|---|---|---|---|---|---|',
    ...rows,
  ].join('\n');
}
