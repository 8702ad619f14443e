import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { addConfigFlags, flagName, flagValues } from '../../../src/cli/flags.js';
import { grpoConfigSchema } from '../../../src/trainer/config.js';
import { configOptions } from '../../../src/trainer/parse-config.js';

function parse(...args: string[]): Record<string, unknown> {
  const command = new Command('train').exitOverride().configureOutput({ writeErr: () => {} });
  addConfigFlags(command, 'Training:', configOptions(grpoConfigSchema));
  return flagValues(command.parse(args, { from: 'user' }).opts());
}

describe('flags of a configuration', () => {
  it('offers every option of the schema under the name that parses back to it', () => {
    for (const { name, type, choices } of configOptions(grpoConfigSchema)) {
      // An object stands in a file only.
      if (type === 'object') continue;
      const value = type === 'boolean' ? [] : [choices?.[0] ?? '1'];
      expect(Object.keys(parse(flagName(name), ...value)), name).toEqual([name]);
    }
  });

  it('gives only what was given, in the type of the option', () => {
    expect(parse()).toEqual({});
    const given = parse('--learning-rate', '1e-4', '--loss-type', 'dapo', '--top-k', '5', '--no-shuffle-dataset');
    expect(given).toEqual({ learningRate: 1e-4, lossType: 'dapo', topK: 5, shuffleDataset: false });
  });

  it('collects lists and takes null where an option can be off', () => {
    expect(parse('--stop', 'a', '--stop', 'b', '--delta', 'null')).toEqual({ stop: ['a', 'b'], delta: null });
    expect(parse('--reward-weights', '1', '--reward-weights', '2')).toEqual({ rewardWeights: [1, 2] });
  });

  it.each([
    ['--learning-rate', 'fast'],
    ['--learning-rate', ''],
    ['--learning-rat', '1'],
  ])('refuses %s %j', (...args) => {
    expect(() => parse(...args)).toThrow();
  });
});
