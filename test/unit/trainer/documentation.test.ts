import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { grpoConfigSchema, sftConfigSchema } from '../../../src/trainer/config.js';
import { type ConfigOption, configOptions } from '../../../src/trainer/parse-config.js';

const guide = readFileSync(new URL('../../../docs/training.md', import.meta.url), 'utf8');

function row({ name, choices, type, nullable, default: value, description }: ConfigOption): string {
  const values = choices ? choices.map((choice) => `\`${choice}\``).join(' ') : type;
  return `| \`${name}\` | ${values}${nullable ? ' or null' : ''} | \`${JSON.stringify(value)}\` | ${description} |`;
}

describe('docs/training.md', () => {
  it.each(configOptions(grpoConfigSchema).map((option) => [option.name, row(option)]))('has %s', (_, expected) => {
    expect(guide).toContain(`\n${expected}\n`);
  });

  it('has what is different in SFT', () => {
    const common = new Set(configOptions(grpoConfigSchema).map(row));
    const own = configOptions(sftConfigSchema).map(row);
    for (const expected of own.filter((text) => !common.has(text))) expect(guide).toContain(`\n${expected}\n`);
  });
});
