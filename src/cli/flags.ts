import { type Command, InvalidArgumentError, Option } from 'commander';
import type { ConfigOption } from '../trainer/parse-config.js';

/** Gives a command a flag for each option of a configuration: `learningRate` becomes `--learning-rate <number>`. */
export function addConfigFlags(command: Command, heading: string, options: readonly ConfigOption[]): void {
  for (const option of options) {
    for (const flag of flagsOf(option)) command.addOption(flag.helpGroup(heading));
  }
  const inFile = options.filter(({ type }) => type === 'object');
  if (inFile.length === 0) return;
  const lines = inFile.map(({ name, description }) => `  ${name.padEnd(10)}${description}`);
  command.addHelpText('after', `\n${heading.replace(':', ' (in the file only):')}\n${lines.join('\n')}`);
}

/** How a person writes the option on the command line. */
export function flagName(option: string): string {
  return `--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

function flagsOf(option: ConfigOption): Option[] {
  if (option.type === 'object') return [];
  const name = flagName(option.name);
  if (option.type === 'boolean') {
    // Help shows the flag that changes something; the other one serves to win over a file.
    const on = new Option(name, option.description).hideHelp(option.default === true);
    const off = new Option(`--no-${name.slice(2)}`, `Switch off: ${option.description}`);
    return [on, off.hideHelp(option.default !== true)];
  }
  const description = option.description + describeDefault(option.default);
  if (option.type === 'list') {
    const flag = new Option(`${name} <${placeholders[option.items ?? 'string']}>`, `${description}; may be repeated`);
    const parse = parserOf(option.items ?? 'string', option);
    return [flag.argParser((text: string, before?: unknown[]) => [...(before ?? []), parse(text)])];
  }
  const choices = option.choices ? ` [${option.choices.join(', ')}]` : '';
  const flag = new Option(`${name} <${option.choices ? 'choice' : placeholders[option.type]}>`, description + choices);
  return [flag.argParser(parserOf(option.type, option))];
}

const placeholders = { number: 'number', integer: 'integer', string: 'text' };

function describeDefault(value: unknown): string {
  if (value === undefined || value === null || (Array.isArray(value) && value.length === 0)) return '';
  return ` (default: ${typeof value === 'string' ? value : JSON.stringify(value)})`;
}

function parserOf(type: ConfigOption['type'], option: ConfigOption): (text: string) => unknown {
  return (text) => {
    if (option.nullable && text === 'null') return switchedOff;
    if (type === 'string') return text;
    const value = Number(text);
    if (text.trim() === '' || Number.isNaN(value)) throw new InvalidArgumentError(`Expected a number.`);
    return value;
  };
}

/** Stands for null, which commander would turn into an empty text. */
const switchedOff = Symbol('null');

/** The flags that were given, as values of the configuration. */
export function flagValues(parsed: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const entries = Object.entries(parsed).map(([name, value]) => [name, value === switchedOff ? null : value]);
  return Object.fromEntries(entries);
}
