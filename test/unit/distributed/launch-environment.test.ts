import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LaunchEnvironmentError } from '../../../src/distributed/errors.js';
import { resolveLaunchEnvironment } from '../../../src/distributed/launch-environment.js';
import { expandHostlist } from '../../../src/distributed/slurm-hostlist.js';

const torchrun = { RANK: '5', WORLD_SIZE: '8', LOCAL_RANK: '1', MASTER_ADDR: 'node0', MASTER_PORT: '29400' };
const slurm = {
  SLURM_PROCID: '5',
  SLURM_NTASKS: '8',
  SLURM_LOCALID: '1',
  SLURM_JOB_NODELIST: 'gpu[07-08]',
  SLURM_JOB_ID: '1234567',
  SLURM_STEP_ID: '0',
};
const openMpi = {
  OMPI_COMM_WORLD_RANK: '5',
  OMPI_COMM_WORLD_SIZE: '8',
  OMPI_COMM_WORLD_LOCAL_RANK: '1',
  MASTER_ADDR: 'node0',
};
const pmi = { PMI_RANK: '5', PMI_SIZE: '8', MPI_LOCALRANKID: '1', MASTER_ADDR: 'node0' };
const kubernetes = { JOB_COMPLETION_INDEX: '5', WORLD_SIZE: '8', MASTER_ADDR: 'job-0.svc' };

const place = { rank: 5, worldSize: 8, localRank: 1, generation: 0 };

describe('the place of a process in its run', () => {
  it('is not there when nothing says so', () => {
    expect(resolveLaunchEnvironment({ PATH: '/bin', MASTER_ADDR: 'left over' })).toBeNull();
    expect(resolveLaunchEnvironment({ RANK: ' ' })).toBeNull();
  });

  it('comes from the options before any variable', () => {
    const options = { rank: 1, worldSize: 2, localRank: 0, masterAddress: 'first', masterPort: 4000 };
    expect(resolveLaunchEnvironment(torchrun, options)).toEqual({
      launcher: 'the options',
      rank: 1,
      worldSize: 2,
      localRank: 0,
      masterAddress: 'first',
      masterPort: 4000,
      runId: '',
      generation: 0,
    });
  });

  it('comes from torchrun, with its run and how often it started again', () => {
    const env = { ...torchrun, TORCHELASTIC_RUN_ID: 'job7', TORCHELASTIC_RESTART_COUNT: '2' };
    expect(resolveLaunchEnvironment(env)).toEqual({
      ...place,
      launcher: 'torchrun',
      masterAddress: 'node0',
      masterPort: 29_400,
      runId: 'job7',
      generation: 2,
    });
  });

  it('leaves the port of torchrun to the store of its agent', () => {
    const env = { ...torchrun, TORCHELASTIC_USE_AGENT_STORE: 'True' };
    expect(resolveLaunchEnvironment(env)).toMatchObject({ masterPort: 29_401 });
  });

  it('takes torchrun variables without LOCAL_RANK as one process a machine, as PyTorchJob sets them', () => {
    const { LOCAL_RANK: _, MASTER_PORT: _p, ...env } = torchrun;
    expect(resolveLaunchEnvironment(env)).toMatchObject({ localRank: 0, masterPort: 29_500 });
  });

  it('comes from Slurm, with the first host and a port of the job', () => {
    expect(resolveLaunchEnvironment(slurm)).toEqual({
      ...place,
      launcher: 'Slurm',
      masterAddress: 'gpu07',
      masterPort: 19_567,
      runId: 'slurm-1234567.0',
    });
  });

  it('takes address and port from MASTER_ADDR and MASTER_PORT where Slurm would say otherwise', () => {
    const env = { ...slurm, MASTER_ADDR: '10.0.0.1', MASTER_PORT: '4321' };
    expect(resolveLaunchEnvironment(env)).toMatchObject({ masterAddress: '10.0.0.1', masterPort: 4321 });
  });

  it('counts the tasks of the step and not those of the job', () => {
    expect(resolveLaunchEnvironment({ ...slurm, SLURM_STEP_NUM_TASKS: '6' })).toMatchObject({ worldSize: 6 });
  });

  it('is not there in a batch script of Slurm that asked for no tasks', () => {
    expect(resolveLaunchEnvironment({ SLURM_PROCID: '0', SLURM_LOCALID: '0', SLURM_JOB_ID: '1' })).toBeNull();
  });

  it.each([
    ['Open MPI', openMpi, 'node0', 1],
    ['MPICH or Intel MPI', pmi, 'node0', 1],
    ['a Kubernetes indexed job', kubernetes, 'job-0.svc', 0],
  ])('comes from %s', (launcher, env, masterAddress, localRank) => {
    expect(resolveLaunchEnvironment(env)).toEqual({
      ...place,
      localRank,
      launcher,
      masterAddress,
      masterPort: 29_500,
      runId: '',
    });
  });

  it('is not there in an indexed job of Kubernetes whose pods are not one world', () => {
    expect(resolveLaunchEnvironment({ JOB_COMPLETION_INDEX: '3' })).toBeNull();
  });

  it('asks the launchers in order: torchrun, Slurm, Open MPI, MPICH, Kubernetes', () => {
    const all = { ...kubernetes, ...pmi, ...openMpi, ...slurm, ...torchrun };
    const order: string[] = [];
    const env: Record<string, string> = { ...all };
    for (const name of ['RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK', 'PMI_RANK', 'JOB_COMPLETION_INDEX']) {
      order.push(resolveLaunchEnvironment(env)!.launcher);
      delete env[name];
    }
    expect(order).toEqual(['torchrun', 'Slurm', 'Open MPI', 'MPICH or Intel MPI', 'a Kubernetes indexed job']);
  });

  it('needs no address when it is alone', () => {
    const env = { OMPI_COMM_WORLD_RANK: '0', OMPI_COMM_WORLD_SIZE: '1' };
    expect(resolveLaunchEnvironment(env)).toMatchObject({ masterAddress: '127.0.0.1', localRank: 0 });
  });
});

function problemsOf(env: Record<string, string>, options = {}): readonly string[] {
  try {
    resolveLaunchEnvironment(env, options);
  } catch (error) {
    if (error instanceof LaunchEnvironmentError) return error.problems;
    throw error;
  }
  return [];
}

describe('settings that are there in part', () => {
  it.each([
    [{ RANK: '1' }, {}, 'missing: WORLD_SIZE, MASTER_ADDR'],
    [{ RANK: '1', WORLD_SIZE: '2' }, {}, 'missing: MASTER_ADDR'],
    [{ WORLD_SIZE: '2', LOCAL_RANK: '0' }, {}, 'WORLD_SIZE, LOCAL_RANK without RANK, which is missing'],
    [{ SLURM_PROCID: '1' }, {}, /missing: SLURM_NTASKS, SLURM_LOCALID, SLURM_JOB_NODELIST \(or MASTER_ADDR\).*srun/],
    [{ OMPI_COMM_WORLD_RANK: '1', OMPI_COMM_WORLD_SIZE: '2' }, {}, /LOCAL_RANK, MASTER_ADDR.*-x MASTER_ADDR=/],
    [{ PMI_RANK: '1', PMI_SIZE: '2', MPI_LOCALRANKID: '1' }, {}, /missing: MASTER_ADDR .*-genv/],
    [{ JOB_COMPLETION_INDEX: '1', MASTER_ADDR: 'a' }, {}, /missing: WORLD_SIZE/],
    [{}, { rank: 1 }, 'missing: worldSize, localRank, masterAddress'],
  ])('%j with the options %j name what is missing', (env, options, expected) => {
    const [problem] = problemsOf(env as unknown as Record<string, string>, options);
    if (typeof expected === 'string') expect(problem).toBe(expected);
    else expect(problem).toMatch(expected);
  });

  it.each([
    [{ ...torchrun, RANK: '8' }, 'rank 8 must be below the world size 8'],
    [{ ...torchrun, RANK: '-1' }, 'RANK must be a whole number from 0, got "-1"'],
    [{ ...torchrun, WORLD_SIZE: 'two' }, 'WORLD_SIZE must be a whole number from 1, got "two"'],
    [{ ...torchrun, MASTER_PORT: '70000' }, 'MASTER_PORT must be a whole number from 1, got "70000"'],
    [{ ...slurm, WORLD_SIZE: '4' }, 'WORLD_SIZE is 4, but SLURM_NTASKS is 8'],
  ])('%j are refused', (env, expected) => {
    expect(problemsOf(env)).toContain(expected);
  });

  it('options are checked too', () => {
    const options = { rank: 2, worldSize: 2, localRank: 0.5, masterAddress: 'a', masterPort: 0 };
    expect(problemsOf({}, options)).toEqual([
      'localRank must be a whole number from 0, got 0.5',
      'masterPort must be a whole number from 1, got 0',
      'rank 2 must be below the world size 2',
    ]);
  });

  it('the error has the code of a wrong configuration and names the launcher', () => {
    expect(() => resolveLaunchEnvironment({ RANK: '1' })).toThrow(
      expect.objectContaining({ code: 'GRPO_CONFIG', launcher: 'torchrun', name: 'LaunchEnvironmentError' }),
    );
  });
});

describe('a list of hosts of Slurm', () => {
  it.each([
    ['node1', ['node1']],
    ['a,b', ['a', 'b']],
    ['n[1-3]', ['n1', 'n2', 'n3']],
    ['n[08-11,20],login', ['n08', 'n09', 'n10', 'n11', 'n20', 'login']],
    ['r[1-2]n[01-02].example', ['r1n01.example', 'r1n02.example', 'r2n01.example', 'r2n02.example']],
    ['x[99-101]', ['x99', 'x100', 'x101']],
  ])('%s', (list, hosts) => {
    expect(expandHostlist(list)).toEqual(hosts);
  });

  it.each(['', 'a,', 'a[', 'a]', 'a[]', 'a[1-]', 'a[3-1]', 'a[1[2]]', 'a[1-999999999]'])('%j is refused', (list) => {
    expect(() => expandHostlist(list)).toThrow(expect.objectContaining({ code: 'GRPO_INVALID_ARGUMENT' }));
  });

  it('gives the hosts that a range was made of', () => {
    const range = fc.tuple(fc.nat({ max: 999 }), fc.nat({ max: 40 }), fc.integer({ min: 1, max: 5 }));
    fc.assert(
      fc.property(range, ([first, more, digits]) => {
        const name = (i: number) => String(i).padStart(digits, '0');
        const hosts = Array.from({ length: more + 1 }, (_, i) => `h${name(first + i)}`);
        expect(expandHostlist(`h[${name(first)}-${name(first + more)}]`)).toEqual(hosts);
      }),
    );
  });
});
