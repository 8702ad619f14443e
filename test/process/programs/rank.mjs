// A rank of a run without training: it joins, does what its arguments say, and leaves.
import { ControlPlane } from '../../../dist/distributed/control-plane.js';
import { exitCodeOf } from '../../../dist/distributed/exit-codes.js';
import { resolveLaunchEnvironment } from '../../../dist/distributed/launch-environment.js';
import { watchLauncher } from '../../../dist/distributed/launcher-watch.js';

const { limits = {}, activity = 'nothing', work, ...what } = JSON.parse(process.argv[2]);
const { version = '1', ...run } = JSON.parse(process.env.TEST_IDENTITY ?? '{}');
const environment = resolveLaunchEnvironment(process.env);
const { rank, generation } = environment;

let plane;
try {
  plane = await ControlPlane.join(environment, { version, configHash: 'same', ...run }, { joinTimeout: 20, ...limits });
  watchLauncher(() => plane.fail(new Error('the launcher is gone')));
  process.on('SIGINT', () => {
    console.log('interrupted');
    process.exit(130);
  });
  plane.report(activity);
  console.log(`ready ${process.pid} start ${generation}`);
  if (what.dies === rank && generation < (what.starts ?? 1)) process.kill(process.pid, 'SIGKILL');
  if (what.exits?.rank === rank) process.exit(what.exits.code);
  if (what.throws === rank) throw new TypeError('a mistake');
  if (what.child) {
    const { spawn } = await import('node:child_process');
    const child = spawn('sleep', ['600'], { stdio: 'ignore' });
    child.unref();
    console.log(`child ${child.pid}`);
  }
  const aborted = new Promise((_, reject) => plane.onAbort(reject));
  for (let i = 0; i < (work ?? 1e6); i++) {
    if (what.slow === rank) for (const end = Date.now() + 300; Date.now() < end; );
    await Promise.race([aborted, new Promise((resolve) => setTimeout(resolve, 20))]);
  }
  await plane.leave();
  console.log('done');
} catch (error) {
  const shared = plane ? await plane.fail(error) : error;
  console.log(`error ${JSON.stringify({ code: shared.code, message: shared.message, ranks: shared.ranks })}`);
  await plane?.close();
  process.exit(exitCodeOf(shared));
}
