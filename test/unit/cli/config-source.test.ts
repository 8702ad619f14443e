import { describe, expect, it } from 'vitest';
import { ConfigSource, parseConfigText } from '../../../src/cli/config-source.js';
import { pathOptions, trainRunSchema, withLists } from '../../../src/cli/run-config.js';
import { parseConfig } from '../../../src/trainer/parse-config.js';

const valid = `# a run
model: models/tiny
dataset: train.jsonl
rewards:
  - format
  - name: length
    target: 20
`;

function check(text: string, flags: Record<string, unknown> = {}) {
  const source = new ConfigSource(parseConfigText(text, 'conf/run.yaml'), flags, pathOptions);
  return source.check(() => parseConfig(trainRunSchema, withLists(source.values)));
}

function messageOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error('expected an error');
}

describe('ConfigSource', () => {
  it('fills in defaults and takes one value for a list', () => {
    const run = check(valid);
    expect(run.numGenerations).toBe(8);
    expect(run.dataset).toEqual([`${process.cwd()}/conf/train.jsonl`]);
    expect(run.rewards).toEqual(['format', { name: 'length', target: 20 }]);
  });

  it('takes paths of the file relative to the file, those of flags to the working folder', () => {
    const run = check(`${valid}  - ./mine.mjs#score\n  - module: mine.mjs\n`, { evalDataset: ['held-out.jsonl'] });
    expect(run.model).toBe(`${process.cwd()}/conf/models/tiny`);
    expect(run.evalDataset).toEqual([`${process.cwd()}/held-out.jsonl`]);
    expect(run.rewards.slice(2)).toEqual([
      `${process.cwd()}/conf/mine.mjs#score`,
      { module: `${process.cwd()}/conf/mine.mjs` },
    ]);
  });

  it('lets flags win over the file', () => {
    expect(check(`${valid}learningRate: 1e-4\nbeta: 0.5\n`, { learningRate: 0.01 })).toMatchObject({
      learningRate: 0.01,
      beta: 0.5,
    });
  });

  it('names file, line and column of an unknown option, with a suggestion', () => {
    const message = messageOf(() => check(`${valid}numGeneration: 4\n`));
    expect(message).toBe('conf/run.yaml:8:1: numGeneration: unknown option; did you mean numGenerations?');
  });

  it('names file, line and column of every bad value', () => {
    const lines = messageOf(() => check(`${valid}learningRate: fast\nlossType:   ppo\n`))
      .split('\n')
      .sort();
    expect(lines[0]).toMatch(/^conf\/run\.yaml:8:1: learningRate: expected number/);
    expect(lines[1]).toMatch(/^conf\/run\.yaml:9:1: lossType: /);
    expect(lines).toHaveLength(2);
  });

  it('names the flag of a bad value', () => {
    expect(messageOf(() => check(valid, { learningRate: -1 }))).toMatch(/^--learning-rate: learningRate: /);
  });

  it('finds the position inside a list', () => {
    const source = new ConfigSource(parseConfigText(valid, 'run.yaml'), {}, {});
    expect(source.error(['rewards[1].target: bad']).message).toBe('run.yaml:7:5: rewards[1].target: bad');
    expect(source.error(['rewards[0]: bad']).message).toBe('run.yaml:5:5: rewards[0]: bad');
    expect(source.error(['model: bad']).message).toBe('run.yaml:2:1: model: bad');
    expect(source.error(['saveSteps: needs outputDir']).message).toBe('run.yaml: saveSteps: needs outputDir');
  });

  it.each([
    ['a: [1, 2', /^x\.yaml:1:\d+: /],
    ['a: 1\nb: "open\n', /^x\.yaml:\d:\d+: /],
    ['model: a\nmodel: b\n', /^x\.yaml:2:1: .*unique/],
    ['- a\n- b\n', /^x\.yaml:1:1: expected options/],
  ])('shows where YAML is wrong: %j', (text, expected) => {
    expect(messageOf(() => parseConfigText(text, 'x.yaml'))).toMatch(expected);
  });

  it.each(['', '# nothing\n', 'null\n'])('takes an empty file as no options: %j', (text) => {
    expect(parseConfigText(text, 'x.yaml').values).toEqual({});
  });
});
