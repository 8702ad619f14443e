import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { ChatMessage } from '../../../src/data/prompts.js';

interface TensorSummary {
  norm: number;
  stride: number;
  values: number[];
}

/** What scripts/fixtures/models_parity.py writes for a model. */
export interface ModelFixture {
  sequences: { promptIds: number[]; completionIds: number[] }[];
  temperature: number;
  logProbs: number[];
  coefficients: number[];
  entropyCoefficients: number[];
  entropy: number[];
  gradients: Record<string, TensorSummary>;
  greedy: { promptIds: number[]; ids: number[] }[];
  adamw: { learningRate: number; beta1: number; beta2: number; epsilon: number; weightDecay: number };
  updated: Record<string, TensorSummary>;
  updatedLogProbs: number[];
  chat: { messages: ChatMessage[]; text: string; ids: number[] };
  texts: { text: string; ids: number[]; decoded: string }[];
}

const folder = fileURLToPath(new URL('../../fixtures/models', import.meta.url));

export function fixtureFolder(name: string): string {
  return `${folder}/${name}`;
}

export function fixture(name: string): ModelFixture {
  return JSON.parse(readFileSync(`${folder}/${name}.json`, 'utf8'));
}

export const families = ['llama', 'qwen2', 'qwen3', 'mistral', 'llama-bias'] as const;

/** Largest difference of the elements that a summary holds, relative to the root mean square of the tensor. */
export function summaryError(values: Float32Array, expected: TensorSummary): number {
  const norm = Math.hypot(...values);
  const scale = Math.max(expected.norm / Math.sqrt(values.length), 1e-12);
  const errors = expected.values.map((x, i) => Math.abs(values[i * expected.stride]! - x));
  return Math.max(Math.abs(norm - expected.norm) / Math.max(expected.norm, 1e-12), ...errors.map((e) => e / scale));
}
