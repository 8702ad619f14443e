import { Command, CommanderError, Option } from 'commander';
import { exitCodeOf } from '../distributed/exit-codes.js';
import { GrpoError } from '../errors.js';
import { quickstartSizes } from '../recipes/quickstart/settings.js';
import { grpoConfigSchema, sftConfigSchema } from '../trainer/config.js';
import { configOptions } from '../trainer/parse-config.js';
import { addEvalCommand } from './eval-program.js';
import { addConfigFlags } from './flags.js';
import {
  activationsOption,
  collect,
  deviceOption,
  dtypeOption,
  modelOption,
  numberOption,
  numbersOption,
} from './options.js';
import { sftSources, trainSources } from './run-config.js';
import { packageVersion } from './version.js';

/** Exit codes: 0 done, 1 failed, 2 the command line or the configuration is wrong, 75 try again, 130 interrupted. */
export async function runProgram(args: readonly string[]): Promise<number> {
  let exitCode = 0;
  try {
    await createProgram((code) => {
      exitCode = code;
    }).parseAsync([...args], { from: 'user' });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    // What this package throws on purpose needs no stack; anything else is a bug, and its stack says where.
    const expected = error instanceof GrpoError && process.env.GRPO_DEBUG === undefined;
    process.stderr.write(`grpo: ${expected ? error.message : error instanceof Error ? error.stack : String(error)}\n`);
    return exitCodeOf(error);
  }
}

/** The command line. Commands load what they do when they run, so that `--help` is quick and needs no addon. */
function createProgram(setExitCode: (code: number) => void): Command {
  const program = new Command('grpo')
    .description('Train language models with GRPO, from the command line.')
    .version(packageVersion)
    .exitOverride()
    .showHelpAfterError('(add --help for the options)')
    .addHelpText('after', '\nStart with: grpo doctor, grpo quickstart, or grpo train config.yaml');

  const train = program
    .command('train')
    .description('Train a model with GRPO: sample completions, score them with rewards, update the policy')
    .argument(
      '[config]',
      'YAML file with the options below in camelCase, or a recipe such as raif/qwen2.5-1.5b; flags win',
    )
    .option(
      '--resume [checkpoint]',
      'continue from the latest checkpoint of outputDir, or from this one; auto: from the latest if there is one',
    )
    .option('--dry-run', 'print what the run would do, with its learning rates and its memory, and end')
    .action(async (config, flags) => {
      setExitCode(await (await import('./commands/train.js')).train(config, flags));
    });
  addConfigFlags(train, 'Sources:', configOptions(trainSources));
  addConfigFlags(train, 'Training:', configOptions(grpoConfigSchema));

  const sft = program
    .command('sft')
    .description('Teach a model to imitate demonstrations (behaviour cloning), the usual step before GRPO')
    .argument('[config]', 'YAML file with the options below in camelCase; flags win over it')
    .option(
      '--resume [checkpoint]',
      'continue from the latest checkpoint of outputDir, or from this one; auto: from the latest if there is one',
    )
    .action(async (config, flags) => {
      setExitCode(await (await import('./commands/sft.js')).sft(config, flags));
    });
  addConfigFlags(sft, 'Sources:', configOptions(sftSources));
  addConfigFlags(sft, 'Training:', configOptions(sftConfigSchema));

  program
    .command('launch')
    .description(
      'Start one process a device on this machine, and watch over them: grpo launch --nproc 8 -- train run.yaml',
    )
    .argument('<command...>', 'what each process runs, behind --: train or sft with its options')
    .addOption(numberOption('--nproc <integer>', 'processes on this machine').makeOptionMandatory())
    .addOption(numberOption('--nnodes <integer>', 'machines; start this command on each', 1))
    .addOption(numberOption('--node-rank <integer>', 'which of the machines this is, from 0', 0))
    .option('--master-addr <host>', 'address of the machine with --node-rank 0, as the others reach it')
    .addOption(numberOption('--master-port <integer>', 'port there (default: a free one; 29500 for several machines)'))
    .option('--run-id <text>', 'name that tells this run from others at the same port; the same on all machines')
    .addOption(numberOption('--max-restarts <integer>', 'times that all ranks start again from the last checkpoint', 0))
    .addOption(numberOption('--grace <number>', 'seconds between the request to end and the end by force', 10))
    .action(async (args, flags) => {
      setExitCode(await (await import('./commands/launch.js')).launchCommand(args, flags));
    });

  program
    .command('plan')
    .description('Estimate memory, traffic and time of training on 1 to 1,024 devices')
    .addOption(
      new Option(
        '--model <folder>',
        'folder or config.json of a model, or a name of a recipe such as Qwen2.5-7B-Instruct',
      ).makeOptionMandatory(),
    )
    .addOption(dtypeOption())
    .addOption(activationsOption())
    .addOption(
      numbersOption(
        '--devices <integer>',
        'numbers of devices; may be repeated (default: the ranks of a launcher, else 1, 8, 64 and 1024)',
      ),
    )
    .addOption(numbersOption('--zero-stage <integer>', 'stages of ZeRO; may be repeated (default: 0, 1 and 2)'))
    .addOption(numberOption('--batch-size <integer>', 'completions of a micro-batch on a device', 8))
    .addOption(numberOption('--accumulation <integer>', 'micro-batches of an update', 1))
    .addOption(numberOption('--prompt-tokens <integer>', 'tokens of the longest prompt', 512))
    .addOption(numberOption('--completion-tokens <integer>', 'most tokens of a completion', 512))
    .option('--gradient-checkpointing', 'keep only the input of each layer for the backward pass', false)
    .addOption(
      new Option(
        '--reference <choice>',
        'reference policy: kept on each device, elsewhere (referenceDevices), or none (beta 0)',
      )
        .choices(['kept', 'elsewhere', 'none'])
        .default('none'),
    )
    .addOption(numberOption('--device-memory <number>', 'GiB of a device; what needs more is marked', 80))
    .addOption(numberOption('--devices-per-node <integer>', 'devices of a machine', 8))
    .addOption(numberOption('--intra-bandwidth <number>', 'GB/s from a device to others of its machine', 450))
    .addOption(numberOption('--inter-bandwidth <number>', 'GB/s from all devices of a machine to other machines', 400))
    .addOption(numberOption('--peak-flops <number>', 'TFLOP/s of a device', 989))
    .addOption(numberOption('--memory-bandwidth <number>', 'GB/s of the memory of a device', 3350))
    .addOption(numberOption('--utilisation <number>', 'share of its operations that training reaches', 0.35))
    .addOption(numberOption('--overlap <number>', 'share of the exchange of gradients behind computation', 0))
    .option('--json', 'print JSON')
    .action(async (flags) => (await import('./commands/plan.js')).plan(flags));

  program
    .command('generate')
    .description('Sample completions of prompts')
    .addOption(modelOption())
    .addOption(new Option('--prompt <text>', 'a prompt; may be given several times').argParser(collect))
    .option('--data <file>', 'prompts from a JSONL file with prompt or messages; prints JSONL')
    .option('--chat', 'send each --prompt as a message of the user, in the chat template of the model')
    .option('--out <file>', 'write JSONL to this file instead of printing')
    .addOption(numberOption('--max-new-tokens <integer>', 'most tokens of a completion', 256))
    .addOption(numberOption('--n <integer>', 'completions a prompt', 1))
    .addOption(numberOption('--temperature <number>', '0 takes the likeliest token', 1))
    .addOption(numberOption('--top-k <integer>', 'sample from the k most likely tokens; 0: from all', 0))
    .addOption(numberOption('--top-p <number>', 'sample from tokens that together reach this probability', 1))
    .addOption(numberOption('--min-p <number>', "sample from tokens at least this share of the likeliest one's", 0))
    .addOption(numberOption('--seed <integer>', 'same seed, same completions', 42))
    .addOption(new Option('--stop <text>', 'a string that ends a completion; may be repeated').argParser(collect))
    .addOption(numberOption('--batch-size <integer>', 'prompts that are generated together', 64))
    .option(...deviceOption)
    .addOption(dtypeOption())
    .addOption(activationsOption())
    .addOption(numberOption('--threads <integer>', 'threads of the CPU kernels'))
    .action(async (flags) => (await import('./commands/generate.js')).generate(flags));

  program
    .command('serve')
    .description('Answer requests over HTTP in the form of the OpenAI API')
    .addOption(modelOption())
    .option('--host <address>', 'address to listen at; the default is for this machine only', '127.0.0.1')
    .addOption(numberOption('--port <integer>', 'port to listen at; 0 takes a free one', 8000))
    .option('--name <text>', 'name of the model in requests (default: the name of its folder)')
    .option('--weights-dir <folder>', 'let POST /v1/weights load weights from inside this folder')
    .option(
      '--weights-broadcast [interface]',
      'let trainers give weights by Gloo or NCCL; they reach this machine by this interface or address',
    )
    .option('--api-key-file <file>', 'ask clients for the key in this file (or in the variable GRPO_API_KEY)')
    .addOption(numberOption('--max-batch <integer>', 'most completions that are decoded together', 256))
    .addOption(numberOption('--max-queue <integer>', 'most completions that wait; more are answered 429', 1024))
    .addOption(numberOption('--cache-bytes <integer>', 'memory of the cache of keys and values', 2 ** 30))
    .addOption(numberOption('--max-body-bytes <integer>', 'longest body of a request', 16 * 2 ** 20))
    .addOption(numberOption('--grace <number>', 'seconds that running requests get at the end', 30))
    .option(...deviceOption)
    .addOption(dtypeOption())
    .addOption(activationsOption())
    .addOption(numberOption('--threads <integer>', 'threads of the CPU kernels'))
    .action(async (flags) => setExitCode(await (await import('./commands/serve.js')).serve(flags)));

  program
    .command('score')
    .description('Log-prob of each token of given completions, from a JSONL file with prompt and completion')
    .addOption(modelOption())
    .requiredOption('--data <file>', 'JSONL file: prompt (or messages) and completion in each row')
    .option('--out <file>', 'write JSONL to this file instead of printing')
    .addOption(numberOption('--temperature <number>', 'the log-probs are those of softmax(logits / temperature)', 1))
    .addOption(numberOption('--batch-size <integer>', 'pairs that are scored together', 16))
    .option(...deviceOption)
    .addOption(dtypeOption())
    .addOption(activationsOption())
    .addOption(numberOption('--threads <integer>', 'threads of the CPU kernels'))
    .action(async (flags) => (await import('./commands/score.js')).score(flags));

  addEvalCommand(program, setExitCode);

  program
    .command('doctor')
    .description('Tell what this machine offers: devices and why not, kernels, versions, and a short self-test')
    .option('--json', 'print JSON')
    .action(async (flags) => setExitCode(await (await import('./commands/doctor.js')).doctor(flags)));

  program
    .command('report')
    .description('Write report.html of a run again, for example of one that was killed')
    .argument('<folder>', 'the folder of the run')
    .action(async (folder) => (await import('./commands/report.js')).report(folder));

  program
    .command('quickstart')
    .description('In a few minutes: clone a small model from flawed demonstrations, then correct it with GRPO')
    .option(...deviceOption)
    .option('--out <folder>', 'folder of the run (default: runs/quickstart, or with a number behind it)')
    .addOption(
      new Option('--size <name>', 'of model, batches and steps (default: small on webgpu:software, else full)').choices(
        Object.keys(quickstartSizes),
      ),
    )
    .addOption(numberOption('--steps <integer>', `updates of GRPO (default: ${stepsOf('grpo')})`))
    .addOption(numberOption('--clone-steps <integer>', `updates of the cloning before (default: ${stepsOf('clone')})`))
    .addOption(numberOption('--seed <integer>', 'seed of data, weights and sampling', 1))
    .addOption(numberOption('--threads <integer>', 'threads of the CPU kernels'))
    .action(async (flags) => setExitCode(await (await import('./commands/quickstart.js')).quickstart(flags)));

  return program;
}

function stepsOf(stage: 'clone' | 'grpo'): string {
  return Object.entries(quickstartSizes)
    .map(([name, size]) => `${size[stage].maxSteps} when ${name}`)
    .join(', ');
}
