import { LaunchEnvironmentError } from './errors.js';
import { expandHostlist } from './slurm-hostlist.js';

/** Which process of a run this one is, and where the first of them waits for the others. */
export interface LaunchEnvironment {
  /** Whose settings said so. */
  launcher: string;
  rank: number;
  worldSize: number;
  /** Which process of its machine this is: the number of its device. */
  localRank: number;
  masterAddress: string;
  masterPort: number;
  /** Tells one run from another at the same port; empty when the launcher names none. */
  runId: string;
  /** How often the run was started again. */
  generation: number;
}

export interface LaunchOptions {
  rank?: number;
  worldSize?: number;
  localRank?: number;
  masterAddress?: string;
  masterPort?: number;
}

type Variables = Readonly<Record<string, string | undefined>>;

export const defaultMasterPort = 29_500;

/** The settings of one launcher: names of variables, in the order in which they are asked. */
interface Launcher {
  name: string;
  isPresent(env: Variables): boolean;
  rank: string;
  worldSize: readonly string[];
  localRank: readonly string[];
  /** Whether a process without a local rank is alone on its machine. */
  aloneOnMachine?: boolean;
  address?(env: Variables): string | undefined;
  /** From what MASTER_PORT says, if it says anything. */
  port?(given: number | undefined, read: Reader): number | undefined;
  runId?: (env: Variables) => string | undefined;
  generation?: string;
  hint?: string;
}

const launchers: readonly Launcher[] = [
  {
    name: 'torchrun',
    isPresent: (env) => has(env, 'RANK'),
    rank: 'RANK',
    worldSize: ['WORLD_SIZE'],
    localRank: ['LOCAL_RANK'],
    // PyTorchJob of Kubeflow sets no LOCAL_RANK: one process a pod.
    aloneOnMachine: true,
    // The agent of torchrun may listen at MASTER_PORT itself, for a store that only PyTorch speaks to.
    port: (given = defaultMasterPort, { env }) =>
      /^(true|1)$/i.test(env.TORCHELASTIC_USE_AGENT_STORE ?? '') ? given + 1 : given,
    runId: (env) => env.GRPO_RUN_ID ?? env.TORCHELASTIC_RUN_ID,
    generation: 'TORCHELASTIC_RESTART_COUNT',
  },
  {
    name: 'Slurm',
    // A batch script has a rank too, but no number of tasks unless it asked for several.
    isPresent: (env) =>
      has(env, 'SLURM_PROCID') &&
      (env.SLURM_PROCID !== '0' ||
        ['SLURM_STEP_NUM_TASKS', 'SLURM_NTASKS', 'SLURM_NPROCS'].some((name) => has(env, name))),
    rank: 'SLURM_PROCID',
    worldSize: ['SLURM_STEP_NUM_TASKS', 'SLURM_NTASKS', 'SLURM_NPROCS'],
    localRank: ['SLURM_LOCALID'],
    address: (env) => {
      const hosts = env.SLURM_STEP_NODELIST || env.SLURM_JOB_NODELIST || env.SLURM_NODELIST;
      return hosts ? expandHostlist(hosts)[0] : undefined;
    },
    // Below the range that systems take outgoing ports from; jobs that share a machine rarely share a port.
    port: (given, read) => {
      const job = read.optional('SLURM_JOB_ID', 0);
      return given ?? (job === undefined ? undefined : 15_000 + (job % 10_000));
    },
    runId: ({ SLURM_JOB_ID: job, SLURM_STEP_ID: step }) => (job ? `slurm-${job}.${step ?? 0}` : undefined),
    generation: 'SLURM_RESTART_COUNT',
    hint: 'start the processes with srun',
  },
  {
    name: 'Open MPI',
    isPresent: (env) => has(env, 'OMPI_COMM_WORLD_RANK'),
    rank: 'OMPI_COMM_WORLD_RANK',
    worldSize: ['OMPI_COMM_WORLD_SIZE'],
    localRank: ['OMPI_COMM_WORLD_LOCAL_RANK'],
    runId: (env) => env.PMIX_NAMESPACE,
    hint: 'give the address with mpirun -x MASTER_ADDR=<host of rank 0>',
  },
  {
    name: 'MPICH or Intel MPI',
    isPresent: (env) => has(env, 'PMI_RANK'),
    rank: 'PMI_RANK',
    worldSize: ['PMI_SIZE'],
    localRank: ['MPI_LOCALRANKID'],
    hint: 'give the address with mpirun -genv MASTER_ADDR <host of rank 0>',
  },
  {
    name: 'a Kubernetes indexed job',
    // The index alone may be that of a job whose pods have nothing to do with each other.
    isPresent: (env) => has(env, 'JOB_COMPLETION_INDEX') && (has(env, 'WORLD_SIZE') || has(env, 'MASTER_ADDR')),
    rank: 'JOB_COMPLETION_INDEX',
    worldSize: ['WORLD_SIZE'],
    localRank: ['LOCAL_RANK'],
    aloneOnMachine: true,
    hint: 'the address is <pod 0>.<headless service>',
  },
];

/**
 * Which process of a run this is: from `options`, else from the variables that torchrun, Slurm, Open MPI, MPICH or a
 * Kubernetes job set, in this order. null: nothing says that there are others. Settings that are there in part, or that
 * contradict each other, are a `LaunchEnvironmentError` that lists what is missing.
 */
export function resolveLaunchEnvironment(env: Variables, options: LaunchOptions = {}): LaunchEnvironment | null {
  const { rank, worldSize, localRank } = options;
  if (rank !== undefined || worldSize !== undefined || localRank !== undefined) return fromOptions(options);
  const launcher = launchers.find((candidate) => candidate.isPresent(env));
  if (launcher) return fromVariables(launcher, env, options);
  const torchrun = launchers[0]!;
  const lonely = [...torchrun.worldSize, ...torchrun.localRank].filter((name) => has(env, name));
  if (lonely.length > 0) {
    throw new LaunchEnvironmentError(torchrun.name, [`${lonely.join(', ')} without RANK, which is missing`]);
  }
  return null;
}

function fromOptions(options: LaunchOptions): LaunchEnvironment {
  const launcher = 'the options';
  const { rank, worldSize, masterPort = defaultMasterPort } = options;
  const masterAddress = options.masterAddress ?? (worldSize === 1 ? '127.0.0.1' : undefined);
  const localRank = options.localRank ?? (worldSize === 1 ? 0 : undefined);
  const values = { rank, worldSize, localRank, masterAddress };
  const missing = Object.entries(values).flatMap(([name, value]) => (value === undefined ? [name] : []));
  if (missing.length > 0) throw new LaunchEnvironmentError(launcher, [`missing: ${missing.join(', ')}`]);
  const numbers = [
    ['rank', rank!, 0, Number.MAX_SAFE_INTEGER],
    ['worldSize', worldSize!, 1, Number.MAX_SAFE_INTEGER],
    ['localRank', localRank!, 0, Number.MAX_SAFE_INTEGER],
    ['masterPort', masterPort, 1, 65_535],
  ] as const;
  const problems = numbers.flatMap(([name, value, least, most]) =>
    Number.isSafeInteger(value) && value >= least && value <= most
      ? []
      : [`${name} must be a whole number from ${least}, got ${value}`],
  );
  const found = { launcher, rank: rank!, worldSize: worldSize!, localRank: localRank!, masterAddress: masterAddress! };
  return checked({ ...found, masterPort, runId: '', generation: 0 }, problems);
}

function fromVariables(launcher: Launcher, env: Variables, options: LaunchOptions): LaunchEnvironment {
  const read = new Reader(env);
  const rank = read.required([launcher.rank], 0);
  const worldSize = read.required(launcher.worldSize, 1);
  const localRank =
    launcher.aloneOnMachine || worldSize === 1
      ? (read.optional(launcher.localRank[0]!, 0) ?? 0)
      : read.required(launcher.localRank, 0);
  const given = options.masterAddress ?? (env.MASTER_ADDR?.trim() || undefined);
  const address = given ?? launcher.address?.(env) ?? (worldSize === 1 ? '127.0.0.1' : undefined);
  if (address === undefined) {
    read.missing.push(launcher.address ? 'SLURM_JOB_NODELIST (or MASTER_ADDR)' : 'MASTER_ADDR');
  }
  const stated = options.masterPort ?? read.optional('MASTER_PORT', 1, 65_535);
  const port = launcher.port ? launcher.port(stated, read) : stated;
  // A script may set WORLD_SIZE for several launchers; when it says something else than the one that runs, who is right?
  const elsewhere = read.optional('WORLD_SIZE', 1);
  if (elsewhere !== undefined && worldSize !== undefined && elsewhere !== worldSize) {
    const name = launcher.worldSize.find((candidate) => has(env, candidate));
    read.problems.push(`WORLD_SIZE is ${elsewhere}, but ${name} is ${worldSize}`);
  }
  const missing = [...new Set(read.missing)];
  if (missing.length > 0) {
    const hint = launcher.hint ? ` (${launcher.hint})` : '';
    read.problems.unshift(`missing: ${missing.join(', ')}${hint}`);
  }
  return checked(
    {
      launcher: launcher.name,
      rank: rank ?? 0,
      worldSize: worldSize ?? Number.MAX_SAFE_INTEGER,
      localRank: localRank ?? 0,
      masterAddress: address ?? '',
      masterPort: port ?? defaultMasterPort,
      runId: launcher.runId?.(env) ?? env.GRPO_RUN_ID ?? '',
      generation: launcher.generation ? (read.optional(launcher.generation, 0) ?? 0) : 0,
    },
    read.problems,
  );
}

function checked(found: LaunchEnvironment, problems: readonly string[]): LaunchEnvironment {
  const { launcher, rank, worldSize, masterPort } = found;
  const all = [...problems];
  if (rank >= worldSize) all.push(`rank ${rank} must be below the world size ${worldSize}`);
  if (masterPort > 65_535) all.push(`port ${masterPort} must be at most 65535`);
  if (all.length > 0) throw new LaunchEnvironmentError(launcher, all);
  return found;
}

function has(env: Variables, name: string): boolean {
  return env[name] !== undefined && env[name]!.trim() !== '';
}

/** Reads whole numbers, and collects what is missing and what cannot be read. */
class Reader {
  readonly missing: string[] = [];
  readonly problems: string[] = [];

  constructor(readonly env: Variables) {}

  optional(name: string, least: number, most = Number.MAX_SAFE_INTEGER): number | undefined {
    if (!has(this.env, name)) return undefined;
    const text = this.env[name]!.trim();
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= least && value <= most) return value;
    const problem = `${name} must be a whole number from ${least}, got ${JSON.stringify(text)}`;
    if (!this.problems.includes(problem)) this.problems.push(problem);
    return undefined;
  }

  /** The first that is set. */
  required(names: readonly string[], least: number): number | undefined {
    const name = names.find((candidate) => has(this.env, candidate));
    if (name !== undefined) return this.optional(name, least);
    this.missing.push(names.at(names.length > 1 ? 1 : 0)!);
    return undefined;
  }
}
