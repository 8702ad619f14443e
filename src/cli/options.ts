import { InvalidArgumentError, Option } from 'commander';

export const deviceOption = ['--device <name>', 'where to compute: auto, cpu, cuda, cuda:1, webgpu', 'auto'] as const;

export function modelOption(): Option {
  return new Option('--model <folder>', 'folder of the model, as Hugging Face writes it').makeOptionMandatory();
}

export function dtypeOption(): Option {
  return new Option('--dtype <choice>', 'number format of the weights').choices(['f32', 'bf16']).default('f32');
}

export function numberOption(flags: string, description: string, fallback?: number): Option {
  const integer = flags.includes('<integer>');
  return new Option(flags, description).default(fallback).argParser((text: string) => {
    const value = Number(text);
    if (text.trim() === '' || Number.isNaN(value)) throw new InvalidArgumentError('Expected a number.');
    if (integer && !Number.isInteger(value)) throw new InvalidArgumentError('Expected an integer.');
    return value;
  });
}

export function collect(text: string, before: string[] = []): string[] {
  return [...before, text];
}
