import { fileURLToPath } from 'node:url';
import { launch } from '../../distributed/launch.js';
import { ConfigError } from '../../trainer/parse-config.js';

export interface LaunchFlags {
  nproc: number;
  nnodes: number;
  nodeRank: number;
  masterAddr?: string;
  masterPort?: number;
  runId?: string;
  maxRestarts: number;
  grace: number;
}

const commands = ['train', 'sft'];

export async function launchCommand(args: readonly string[], flags: LaunchFlags): Promise<number> {
  const problems = [...problemsOf(args, flags)];
  if (problems.length > 0) throw new ConfigError('launch', problems);
  const program = fileURLToPath(new URL('../main.js', import.meta.url));
  const { nproc, nnodes, masterAddr, ...rest } = flags;
  const command = [...process.execArgv, program, ...args];
  return launch({ command, processes: nproc, nodes: nnodes, masterAddress: masterAddr, ...rest });
}

function* problemsOf([command]: readonly string[], flags: LaunchFlags): Generator<string> {
  if (command === undefined) yield 'nothing to launch: grpo launch --nproc 2 -- train config.yaml';
  else if (!commands.includes(command)) yield `${command} cannot be launched; ${commands.join(' and ')} can`;
  const least: [keyof LaunchFlags, number][] = [
    ['nproc', 1],
    ['nnodes', 1],
    ['nodeRank', 0],
    ['maxRestarts', 0],
    ['grace', 0],
  ];
  for (const [name, minimum] of least) {
    if (Number(flags[name]) < minimum) yield `${flagOf(name)}: must be at least ${minimum}, got ${flags[name]}`;
  }
  if (flags.nodeRank >= flags.nnodes)
    yield `--node-rank: must be below --nnodes ${flags.nnodes}, got ${flags.nodeRank}`;
  if (flags.nnodes > 1 && flags.masterAddr === undefined) {
    yield '--master-addr: several machines need the address of the one with --node-rank 0';
  }
  const port = flags.masterPort;
  if (port !== undefined && !(port >= 1 && port <= 65_535)) yield `--master-port: must be from 1 to 65535, got ${port}`;
}

function flagOf(name: string): string {
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}
