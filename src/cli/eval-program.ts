import { type Command, Option } from 'commander';
import { activationsOption, deviceOption, dtypeOption, numberOption } from './options.js';

/** `grpo eval ifeval | judged | maths`. */
export function addEvalCommand(program: Command, setExitCode: (code: number) => void): void {
  const evaluation = program.command('eval').description('Evaluate a model, or finished answers, on a benchmark');

  const ifeval = evaluation
    .command('ifeval')
    .description('IFEval: which verifiable instructions do the answers follow?')
    .requiredOption('--data <file>', "IFEval's input_data.jsonl: key, prompt, instruction_id_list, kwargs");
  addAnswerOptions(ifeval).action(async (flags) => {
    setExitCode(await (await import('./commands/eval-ifeval.js')).evalIFEval(flags));
  });

  const judged = evaluation
    .command('judged')
    .description('Yes/no questions about each answer, put to a judge: InfoBench, ComplexBench and the like')
    .requiredOption('--config <file>', 'YAML file that describes the benchmark and the judge');
  addAnswerOptions(judged).action(async (flags) => {
    setExitCode(await (await import('./commands/eval-judged.js')).evalJudged(flags));
  });

  const maths = evaluation
    .command('maths')
    .description('Questions with one right answer, such as GSM8K')
    .requiredOption('--data <file>', 'JSONL file with questions and answers')
    .option('--question-field <name>', 'field of the question', 'question')
    .option('--answer-field <name>', 'field of the reference answer', 'answer')
    .option(
      '--instruction <text>',
      'what stands after each question',
      'Reason step by step, and put the final answer within \\boxed{}.',
    );
  addAnswerOptions(maths).action(async (flags) => {
    setExitCode(await (await import('./commands/eval-maths.js')).evalMaths(flags));
  });
}

/** Where answers come from, in every benchmark. */
function addAnswerOptions(command: Command): Command {
  const group = (heading: string, ...options: Option[]) => {
    for (const option of options) command.addOption(option.helpGroup(heading));
  };
  group(
    'Answers:',
    new Option('--out <folder>', 'folder of the evaluation; the same command continues it').makeOptionMandatory(),
    new Option('--model <name>', 'the model: its folder, or its name at --model-url'),
    new Option('--model-url <url>', 'OpenAI-compatible server of the model, up to /v1'),
    new Option('--responses <file>', 'finished answers instead: JSONL with prompt and response, matched by prompt'),
    new Option('--allow-missing', 'count prompts without an answer as failures'),
    numberOption('--limit <integer>', 'evaluate only so many of the first prompts'),
    new Option('--answer-tag <name>', 'evaluate only what stands between <name> and </name>'),
    new Option('--after-think', 'evaluate only what comes after </think>'),
  );
  group(
    'Generation:',
    numberOption('--max-tokens <integer>', 'most tokens of an answer', 2048),
    numberOption('--temperature <number>', '0 takes the likeliest token', 0),
    numberOption('--top-p <number>', 'sample from tokens that together reach this probability', 1),
    numberOption('--seed <integer>', 'seed of sampling; prompt i uses seed + i'),
    new Option('--system <text>', 'system message before each prompt'),
  );
  group(
    'Two models:',
    new Option('--reasoning-model <name>', 'a model that reasons first; --model answers with its reasoning'),
    new Option('--reasoning-url <url>', 'server of the reasoning model'),
    numberOption('--reasoning-max-tokens <integer>', 'most tokens of the reasoning', 8192),
    new Option('--handover <choice>', 'reasoning goes into the last message, or begins the answer')
      .choices(['message', 'prefill'])
      .default('message'),
  );
  group(
    'Servers:',
    new Option('--api-key-env <name>', 'environment variable that holds the key').default('OPENAI_API_KEY'),
    numberOption('--concurrency <integer>', 'requests under way at the same time', 16),
    numberOption('--timeout <number>', 'seconds for one request', 600),
    numberOption('--retries <integer>', 'tries after one that failed', 5),
  );
  const [device, description, fallback] = deviceOption;
  group(
    'Local models:',
    new Option(device, description).default(fallback),
    dtypeOption(),
    activationsOption(),
    numberOption('--threads <integer>', 'threads of the CPU kernels'),
    numberOption('--batch-size <integer>', 'prompts that are answered together', 32),
    new Option('--raw', 'give the prompt as it is, without the chat template'),
  );
  return command;
}
