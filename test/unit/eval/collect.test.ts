import { appendFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type CollectOptions, collect } from '../../../src/eval/collect.js';
import { EvalFolder } from '../../../src/eval/eval-folder.js';
import { RecordLog } from '../../../src/eval/record-log.js';
import { HttpError } from '../../../src/http/json-client.js';

type Item = { id: string };
type Row = { id: string; n: number };

let folder: string;
let file: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'grpo-eval-'));
  file = join(folder, 'log.jsonl');
});
afterEach(() => rm(folder, { recursive: true }));

const items = Array.from({ length: 10 }, (_, i) => ({ id: `i${i}` }));
const open = () => RecordLog.open<Row>(file, (row) => (typeof row.n === 'number' ? undefined : 'n must be a number'));
const idsIn = async () =>
  (await readFile(file, 'utf8'))
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).id);

function run(log: RecordLog<Row>, options: Partial<CollectOptions<Item, Row>> = {}) {
  return collect<Item, Row>(items, log, {
    batchSize: 1,
    concurrency: 2,
    signal: new AbortController().signal,
    work: async (batch, first) => batch.map(({ id }, i) => ({ id, n: first + i })),
    ...options,
  });
}

describe('collect', () => {
  it('works through all items, each once, and tells its progress', async () => {
    const log = await open();
    const seen: number[] = [];
    const result = await run(log, { batchSize: 3, progress: (done, total) => seen.push(done / total) });
    expect(result).toEqual({ failures: [], interrupted: false });
    expect((await idsIn()).sort()).toEqual(items.map(({ id }) => id));
    expect([...log.rows.values()].find(({ id }) => id === 'i7')).toEqual({ id: 'i7', n: 7 });
    expect(seen.at(-1)).toBe(1);
  });

  it('asks only for what the log does not have, in the same batches', async () => {
    await writeFile(
      file,
      items
        .slice(0, 4)
        .map(({ id }) => `{"id":"${id}","n":-1}\n`)
        .join(''),
    );
    const firsts: number[] = [];
    const log = await open();
    await run(log, {
      batchSize: 3,
      work: async (batch, first) => {
        firsts.push(first);
        return batch.map(({ id }) => ({ id, n: 0 }));
      },
    });
    expect(firsts).toEqual([3, 6, 9]);
    expect((await idsIn()).sort()).toEqual(items.map(({ id }) => id));
    expect(log.rows.get('i3')!.n).toBe(-1);
  });

  it('goes on after an item that an endpoint fails on', async () => {
    const result = await run(await open(), {
      work: async ([item], first) => {
        if (first % 4 === 1) throw new HttpError('no luck', 'status', 500);
        return [{ id: item!.id, n: 0 }];
      },
    });
    const failures = ['i1', 'i5', 'i9'].map((id) => ({ id, message: 'no luck' }));
    expect(result).toEqual({ failures, interrupted: false });
    expect(await idsIn()).toHaveLength(7);
  });

  it('ends at a failure that no item could escape', async () => {
    let asked = 0;
    const work = async () => {
      asked++;
      throw new HttpError('wrong key', 'status', 401);
    };
    await expect(run(await open(), { work })).rejects.toThrow('wrong key');
    expect(asked).toBeLessThanOrEqual(2);
  });

  it('ends after many failures in a row', async () => {
    const work = async () => {
      throw new HttpError('down', 'connection');
    };
    await expect(run(await open(), { work })).rejects.toThrow('10 failures in a row, the last: down');
  });

  it('does not take a mistake of the program for a failure of the endpoint', async () => {
    const work = async () => {
      throw new TypeError('undefined is not a function');
    };
    await expect(run(await open(), { work })).rejects.toThrow(TypeError);
  });

  it('stops when interrupted, and keeps what is done', async () => {
    const controller = new AbortController();
    const result = await run(await open(), {
      concurrency: 1,
      signal: controller.signal,
      work: async ([item], first, signal) => {
        if (first === 4) {
          controller.abort(new Error('Ctrl-C'));
          signal.throwIfAborted();
        }
        return [{ id: item!.id, n: first }];
      },
    });
    expect(result).toEqual({ failures: [], interrupted: true });
    expect(await idsIn()).toEqual(['i0', 'i1', 'i2', 'i3']);
  });
});

describe('RecordLog', () => {
  it('cuts off what a killed process left of a line', async () => {
    await writeFile(file, '{"id":"a","n":1}\n{"id":"b","n":2}\n{"id":"c","n');
    const log = await open();
    expect([...log.rows.keys()]).toEqual(['a', 'b']);
    await log.append([{ id: 'c', n: 3 }]);
    expect(await readFile(file, 'utf8')).toBe('{"id":"a","n":1}\n{"id":"b","n":2}\n{"id":"c","n":3}\n');
  });

  it('refuses lines that it did not write', async () => {
    await writeFile(file, '{"id":"a","n":1}\n{"id":"b"}\n');
    await expect(open()).rejects.toThrow(`${file}:2: n must be a number`);
    await writeFile(file, 'null\n');
    await expect(open()).rejects.toThrow(`${file}:1: expected an object with an id`);
    await writeFile(file, '{"id":"a",\n{"id":"b","n":1}\n');
    await expect(open()).rejects.toThrow(`${file}:1: not JSON`);
  });
});

describe('EvalFolder', () => {
  const identity = { data: 'x', model: { name: 'm', seed: undefined }, list: [1, 2] };

  it('is opened again by the same configuration', async () => {
    await EvalFolder.open(folder, identity);
    await EvalFolder.open(folder, { ...identity, list: [1, 2] });
  });

  it('names each difference to the configuration that it belongs to', async () => {
    await EvalFolder.open(folder, identity);
    const other = { data: 'x', model: { name: 'n', seed: 4 } };
    await expect(EvalFolder.open(folder, other)).rejects.toMatchObject({
      code: 'GRPO_CONFIG',
      message: expect.stringMatching(
        /another configuration:\n {2}model\.name: was "m", is "n"\n {2}model\.seed: was absent, is 4\n {2}list: was \[1,2\], is absent\n/,
      ),
    });
  });

  it('refuses a folder with answers of unknown origin', async () => {
    await appendFile(join(folder, 'responses.jsonl'), '');
    await expect(EvalFolder.open(folder, identity)).rejects.toThrow('has a responses.jsonl but no run.json');
  });
});
