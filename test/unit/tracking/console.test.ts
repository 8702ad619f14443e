import { describe, expect, it } from 'vitest';
import { type ConsoleOptions, ConsoleTracker, formatDuration } from '../../../src/tracking/console.js';

class Stream {
  text = '';
  constructor(
    readonly isTTY: boolean,
    readonly columns = 100,
  ) {}
  write(text: string): void {
    this.text += text;
  }
}

function started(totalSteps: number, options: ConsoleOptions): ConsoleTracker {
  const tracker = new ConsoleTracker(options);
  tracker.start({ totalSteps });
  return tracker;
}

const metrics = { loss: 0.1, reward: 0.75, kl: 0.0123, tokens_per_second: 1234.4 };

describe('ConsoleTracker', () => {
  it('shows step, reward, KL, speed and time left', () => {
    const stream = new Stream(false);
    let clock = 0;
    const tracker = started(100, { stream, now: () => clock });
    tracker.metrics(1, metrics);
    clock = 3000;
    tracker.metrics(4, metrics);
    const lines = stream.text.trimEnd().split('\n');
    expect(lines[0]).toBe('step 1/100  reward 0.750  KL 0.0123  tokens/s 1234');
    expect(lines[1]).toBe('step 4/100  reward 0.750  KL 0.0123  tokens/s 1234  1:36 left');
  });

  it('redraws a terminal at most ten times a second, never wider than it', () => {
    const stream = new Stream(true, 30);
    let clock = 0;
    const tracker = started(1000, { stream, now: () => clock });
    for (let step = 1; step <= 100; step++) {
      tracker.metrics(step, metrics);
      clock += 10;
    }
    const draws = stream.text.split('\r\x1b[K').slice(1);
    expect(draws).toHaveLength(10);
    for (const draw of draws) expect(draw.length).toBeLessThan(30);
    expect(stream.text).not.toContain('\n');
  });

  it('writes plain lines without control characters when it is not a terminal', async () => {
    const stream = new Stream(false);
    let clock = 0;
    const tracker = started(50, { stream, now: () => clock });
    for (let step = 1; step <= 50; step++) {
      tracker.metrics(step, metrics);
      clock += 100;
    }
    await tracker.finish();
    const lines = stream.text.trimEnd().split('\n');
    expect(lines.map((line) => line.split('  ')[0])).toEqual(['step 1/50', 'step 21/50', 'step 41/50', 'step 50/50']);
    for (const control of ['\r', '\x1b']) expect(stream.text).not.toContain(control);
  });

  it('gives evaluations a line of their own', () => {
    const stream = new Stream(false);
    const tracker = started(10, { stream, now: () => 0 });
    tracker.metrics(5, { 'eval/reward': 0.5, 'eval/rewards/format/mean': 1, 'eval/rewards/format/std': 0 });
    expect(stream.text).toBe('step 5  held out: reward 0.500  format 1.000\n');
  });

  it.each([
    [0, '0 s'],
    [59.4, '59 s'],
    [61, '1:01'],
    [3729, '1:02:09'],
  ])('writes %d seconds as %s', (seconds, text) => expect(formatDuration(seconds)).toBe(text));
});
