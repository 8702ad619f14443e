import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import vm from 'node:vm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CompletionSample } from '../../../src/tracking/report/completion-sample.js';
import { writeReport } from '../../../src/tracking/report/report.js';
import type { TrackedCompletion } from '../../../src/tracking/tracker.js';

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'grpo-report-'));
});
afterAll(() => rm(root, { recursive: true }));

function completion(fields: Partial<TrackedCompletion>): TrackedCompletion {
  const defaults = {
    split: 'train',
    prompt: '',
    completion: '',
    reward: 0,
    rewards: {},
    advantage: 0,
    stopReason: 'stop',
  };
  return { step: 1, ...defaults, ...fields };
}

async function report(name: string, metrics: object[], completions: TrackedCompletion[], config = 'steps: 1\n') {
  const folder = join(root, name);
  await mkdir(folder);
  const lines = (rows: object[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join('');
  await writeFile(join(folder, 'metrics.jsonl'), lines(metrics));
  await writeFile(join(folder, 'completions.jsonl'), lines(completions));
  await writeFile(join(folder, 'config.yaml'), config);
  const html = await readFile(await writeReport(folder), 'utf8');
  const json = /<script id="data" type="application\/json">(.*?)<\/script>/s.exec(html)?.[1] ?? '';
  return { html, data: JSON.parse(json) };
}

describe('writeReport', () => {
  it('gives the page every metric, joined by step, and the completions', async () => {
    const metrics = [
      { step: 1, time: 5, loss: 1, reward: 0.25 },
      { step: 2, time: 6, loss: null, reward: 0.5 },
      { step: 2, time: 6, 'eval/reward': 0.75 },
    ];
    const row = completion({ step: 2, prompt: '1+1=', completion: '2', reward: 1, rewards: { correct: 1 } });
    const { data } = await report('plain', metrics, [row]);
    expect(data.metrics.steps).toEqual([1, 2]);
    expect(data.metrics.columns).toEqual({ loss: [1, null], reward: [0.25, 0.5], 'eval/reward': [null, 0.75] });
    expect(data.completions).toEqual({ rows: [row], note: null });
    expect(data.config).toBe('steps: 1\n');
  });

  it('keeps markup from a model, a configuration or a folder name inert', async () => {
    const attack = '</script><script>alert(1)</script><img src=x onerror=alert(2)><!--\u2028';
    const row = completion({ prompt: attack, completion: attack, rewards: { [attack]: 1 } });
    const { html, data } = await report('<img src=x>&', [{ step: 1, [attack]: 1 }], [row], attack);
    expect(data.completions.rows[0].completion).toBe(attack);
    expect(data.config).toBe(attack);
    expect(html).not.toContain('<img');
    expect(html).not.toContain('alert(1)</script>');
    expect(html.match(/<script/g)).toHaveLength(2);
    expect(html.match(/<\/script/g)).toHaveLength(2);
  });

  it('puts text into the page as text only', async () => {
    const { html } = await report('sinks', [], []);
    for (const sink of ['innerHTML', 'outerHTML', 'insertAdjacentHTML', 'document.write', 'eval(', 'new Function']) {
      expect(html).not.toContain(sink);
    }
  });

  it('needs nothing from the network', async () => {
    const { html } = await report('offline', [{ step: 1, loss: 1 }], []);
    const addresses = html.match(/\b(?:https?:)?\/\/[a-z][\w.-]+\.[a-z]{2,}[^\s'"]*/gi) ?? [];
    expect(addresses).toEqual(['http://www.w3.org/2000/svg']);
    expect(html).not.toMatch(/<link|\bsrc=|@import|url\(/);
    expect(html).toContain("default-src 'none'");
  });

  it('holds one script that parses, without imports', async () => {
    const { html } = await report('script', [], []);
    const script = /<script type="module">(.*)<\/script>/s.exec(html)?.[1] ?? '';
    expect(script).toContain('drawCharts(');
    expect(script).not.toMatch(/^(import|export)\b/m);
    expect(() => new vm.Script(`(async () => {${script}})`)).not.toThrow();
  });

  it('thins the curves of a long run, keeps its evaluations and its end, and says so', async () => {
    const metrics = Array.from({ length: 9001 }, (_, i) => ({ step: i + 1, loss: i }));
    const { data } = await report('long', [...metrics, { step: 4444, 'eval/reward': 1 }], []);
    expect(data.metrics.steps.length).toBeLessThan(2100);
    expect(data.metrics.steps).toContain(4444);
    expect(data.metrics.steps.at(-1)).toBe(9001);
    expect(data.metrics.note).toContain('every 5th of 9001 steps');
  });

  it('serves a folder that has nothing yet', async () => {
    const folder = join(root, 'empty');
    await mkdir(folder);
    const html = await readFile(await writeReport(folder), 'utf8');
    expect(html).toContain('No steps yet');
  });
});

describe('CompletionSample', () => {
  it('keeps everything that fits', () => {
    const sample = new CompletionSample({ rows: 10 });
    for (let step = 1; step <= 5; step++) for (let i = 0; i < 2; i++) sample.add(completion({ step }));
    expect(sample.result()).toMatchObject({ rows: { length: 10 }, note: null });
  });

  it('drops whole steps evenly, keeps the last, and says so', () => {
    const sample = new CompletionSample({ rows: 40 });
    for (let step = 1; step <= 1000; step++)
      for (let i = 0; i < 4; i++) sample.add(completion({ step, completion: `${i}` }));
    const { rows, note } = sample.result();
    expect(rows.length).toBeLessThanOrEqual(40);
    expect(rows.length).toBeGreaterThan(15);
    const steps = [...new Set(rows.map((row) => row.step))];
    expect(rows).toHaveLength(steps.length * 4);
    expect(steps[0]).toBe(1);
    expect(steps.at(-1)).toBe(1000);
    const gaps = steps.slice(1, -1).map((step, i) => step - steps[i]!);
    expect(new Set(gaps).size).toBe(1);
    expect(note).toContain(`${rows.length} of 4,000 completions`);
  });

  it('cuts texts that are very long', () => {
    const sample = new CompletionSample();
    sample.add(completion({ completion: 'x'.repeat(50_000) }));
    const { rows, note } = sample.result();
    expect(rows[0]?.completion).toHaveLength(20_002);
    expect(note).toContain('cut after 20,000 characters');
  });
});
