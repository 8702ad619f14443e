import { InvalidArgumentError, Option } from 'commander';
import { activationDTypes } from '../models/activations.js';

export const deviceOption = [
  '--device <name>',
  'where to compute: auto, cpu, cuda, cuda:1, webgpu, webgpu:<part of a name>',
  'auto',
] as const;

export function modelOption(): Option {
  return new Option('--model <folder>', 'folder of the model, as Hugging Face writes it').makeOptionMandatory();
}

export function dtypeOption(): Option {
  return new Option('--dtype <choice>', 'number format of the weights').choices(['f32', 'bf16']).default('f32');
}

export function activationsOption(): Option {
  return new Option(
    '--activations <choice>',
    'number format of activations, keys and values (default: bf16 for bf16 weights on CUDA, else f32)',
  ).choices(activationDTypes);
}

export function numberOption(flags: string, description: string, fallback?: number): Option {
  return new Option(flags, description).default(fallback).argParser((text: string) => parseNumber(flags, text));
}

/** May be given several times. */
export function numbersOption(flags: string, description: string): Option {
  const add = (text: string, before: number[] = []) => [...before, parseNumber(flags, text)];
  return new Option(flags, description).argParser(add);
}

function parseNumber(flags: string, text: string): number {
  const value = Number(text);
  if (text.trim() === '' || Number.isNaN(value)) throw new InvalidArgumentError('Expected a number.');
  if (flags.includes('<integer>') && !Number.isInteger(value)) throw new InvalidArgumentError('Expected an integer.');
  return value;
}

export function collect(text: string, before: string[] = []): string[] {
  return [...before, text];
}
