import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { GrpoError, InvalidArgumentError } from '../../../src/errors.js';
import { type ParameterSpec, Parameters } from '../../../src/models/parameters.js';
import type { Device } from '../../../src/tensor.js';

let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(() => {
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

const specs: ParameterSpec[] = [
  { name: 'norm', shape: [3], decay: false },
  { name: 'a', shape: [2, 3], decay: true },
  { name: 'b', shape: [1, 3], decay: true },
  { name: 'bias', shape: [2], decay: false },
];

describe('parameters', () => {
  it('lie in one tensor, those with decay first', async () => {
    const parameters = new Parameters(device, 'f32', specs);
    expect(parameters.count).toBe(14);
    expect(parameters.groups).toEqual({ decay: { offset: 0, count: 9 }, noDecay: { offset: 9, count: 5 } });
    expect([...parameters].map((p) => p.name)).toEqual(['a', 'b', 'norm', 'bias']);
    parameters.flat.write(Float32Array.from({ length: 14 }, (_, i) => i));
    expect([...(await parameters.get('norm').value.read())]).toEqual([9, 10, 11]);
    parameters.get('b').value.write([60, 70, 80]);
    expect([...(await parameters.flat.read())].slice(5, 10)).toEqual([5, 60, 70, 80, 9]);
    parameters.dispose();
  });

  it('have gradients once these are enabled, and spans have them too', async () => {
    const parameters = new Parameters(device, 'bf16', specs);
    const before = parameters.span(['a', 'b']);
    expect([parameters.frozen, before.grad, parameters.get('a').grad]).toEqual([true, null, null]);
    expect(() => parameters.zeroGradients()).toThrow(GrpoError);
    parameters.enableGradients();
    parameters.enableGradients();
    expect(before.value.shape).toEqual([3, 3]);
    expect(before.grad!.shape).toEqual([3, 3]);
    expect(before.grad!.dtype).toBe('f32');
    device.run('fill', { out: parameters.span(['norm', 'bias']).grad!, value: 2 });
    before.grad!.write(Float32Array.from({ length: 9 }, (_, i) => i));
    expect([...(await parameters.get('b').grad!.read())]).toEqual([6, 7, 8]);
    expect([...(await parameters.gradients!.read())]).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 2, 2, 2, 2, 2]);
    parameters.zeroGradients();
    expect(new Set(await parameters.gradients!.read())).toEqual(new Set([0]));
    parameters.dispose();
  });

  it('are one span only where they lie one after another', () => {
    const parameters = new Parameters(device, 'f32', specs);
    expect(parameters.span(['a', 'b'])).toBe(parameters.span(['a', 'b']));
    expect(() => parameters.span(['b', 'a'])).toThrow(InvalidArgumentError);
    expect(() => parameters.span(['a', 'norm'])).toThrow(InvalidArgumentError);
    expect(() => parameters.get('c')).toThrow(/parameter for name but received "c"/);
    parameters.dispose();
  });

  it('copy from the same layout, whatever the dtype', async () => {
    const [from, to] = [new Parameters(device, 'f32', specs), new Parameters(device, 'bf16', specs)];
    from.flat.write(Float32Array.from({ length: 14 }, (_, i) => i / 2));
    to.copyFrom(from);
    expect(await to.flat.read()).toEqual(await from.flat.read());
    const other = new Parameters(device, 'f32', specs.slice(1));
    expect(() => to.copyFrom(other)).toThrow(/norm\[3\]/);
    expect(() => other.copyFrom(to)).toThrow(InvalidArgumentError);
    for (const parameters of [from, to, other]) parameters.dispose();
  });
});
