import { expect, test } from 'vitest';
import { launch } from '../../../src/distributed/launch.js';

/** Starts two ranks that run these lines of code, and gives the exit code and what the launcher says. */
async function ended(...programs: [string, string]) {
  const code = `const programs = ${JSON.stringify(programs)}; eval(programs[process.env.RANK]);`;
  let said = '';
  const print = (_: string, text: string) => {
    said += text;
  };
  return { code: await launch({ command: ['-e', code], processes: 2, grace: 0.2, print }), said };
}

const later = (code: string) => `setTimeout(() => { ${code} }, 500)`;
const killed = later('process.kill(process.pid, "SIGKILL")');

test('a rank that was killed is the cause, also when one that noticed ended before', async () => {
  expect(await ended(killed, 'process.exit(75)')).toEqual({
    code: 75,
    said: 'grpo launch: rank 0 was killed by SIGKILL\n',
  });
});

test('an error that a restart does not help stays the cause, and so does the first of two that were killed', async () => {
  expect(await ended(killed, 'process.exit(1)')).toEqual({ code: 1, said: 'grpo launch: rank 1 ended with 1\n' });
  const now = 'process.kill(process.pid, "SIGKILL")';
  expect(await ended(killed, now)).toEqual({ code: 75, said: 'grpo launch: rank 1 was killed by SIGKILL\n' });
});

test('a rank that the launcher kills is no cause', async () => {
  const stubborn = 'process.on("SIGTERM", () => {}); setInterval(() => {}, 1000)';
  expect(await ended(stubborn, 'process.exit(75)')).toEqual({ code: 75, said: 'grpo launch: rank 1 ended with 75\n' });
});
