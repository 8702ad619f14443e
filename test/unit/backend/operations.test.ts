import { describe, expect, test } from 'vitest';
import { operations } from '../../../src/backend/backend.js';
import { loadAddon } from '../../../src/backend/loader.js';

const snake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

describe('the list of operations', () => {
  test('is the same in backend.ts and grpo.h: names, tensors and scalars, in order', () => {
    const here = Object.entries(operations).map(([name, { tensors, scalars }]) => ({
      name: snake(name),
      tensors: Object.keys(tensors).map(snake),
      scalars: scalars.map(snake),
    }));
    expect(loadAddon().binding.operations()).toEqual(here);
  });
});

describe('the addon itself', () => {
  const { binding } = loadAddon();

  async function open() {
    const { engine } = await binding.open('cpu', 0, 'threads=1', []);
    return { engine, storage: binding.allocate(engine, 64) };
  }

  const index = Object.keys(operations).indexOf('fill');
  const payload = (fields: number[]) => Float64Array.from([...fields, 1]);

  test('refuses tensors that leave their memory', async () => {
    const { engine, storage } = await open();
    const f32 = 0;
    binding.run(engine, index, payload([storage, 0, f32, 1, 16, 1, 1, 1, 16]));
    for (const fields of [
      [storage, 0, f32, 1, 17, 1, 1, 1, 17], // too long
      [storage, 4, f32, 1, 16, 1, 1, 1, 16], // shifted out
      [storage, 2, f32, 1, 4, 1, 1, 1, 4], // not aligned
      [storage, -4, f32, 1, 4, 1, 1, 1, 4],
      [storage, 0, 4, 1, 4, 1, 1, 1, 4], // no such dtype
      [storage, 0, f32, 5, 4, 1, 1, 1, 4], // no such rank
      [storage, 0, f32, 2, 2, 4, 1, 1, 3], // rows overlap
      [storage, 0, f32, 2, 3, 4, 1, 1, 8], // last row outside
      [storage, 0, f32, 1, -1, 1, 1, 1, 1],
      [storage, 0, f32, 1, Number.NaN, 1, 1, 1, 1],
      [storage, 0, f32, 4, 2 ** 40, 2 ** 40, 2 ** 40, 1, 1],
    ]) {
      expect(() => binding.run(engine, index, payload(fields)), String(fields)).toThrow(/outside its memory/);
    }
    binding.close(engine);
  });

  test('refuses storages, operations, payloads and ranges that do not exist', async () => {
    const { engine, storage } = await open();
    const fill = payload([storage, 0, 0, 1, 4, 1, 1, 1, 4]);
    expect(() => binding.run(engine, 999, fill)).toThrow(/operation/);
    expect(() => binding.run(engine, index, fill.subarray(1))).toThrow(/too few arguments/);
    expect(() => binding.run(engine, index, payload([99, 0, 0, 1, 4, 1, 1, 1, 4]))).toThrow(/disposed/);
    expect(() => binding.write(engine, storage, 60, new Float32Array(2))).toThrow(/outside/);
    expect(() => binding.write(engine, storage, 0, 'text' as never)).toThrow(/typed array/);
    expect(() => binding.read(engine, storage, 0, 65)).toThrow(/outside/);
    expect(() => binding.allocate(engine, -1)).toThrow(/bytes/);
    binding.release(engine, storage);
    binding.release(engine, storage);
    expect(() => binding.read(engine, storage, 0, 4)).toThrow(/disposed/);
    binding.close(engine);
    expect(() => binding.allocate(engine, 4)).toThrow(/disposed/);
    expect(() => binding.allocate(12345, 4)).toThrow(/disposed/);
  });
});
