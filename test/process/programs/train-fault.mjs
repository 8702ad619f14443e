// The command line with a fault: FAULT is JSON { at, signal } or { at, delay }. `at` is where the process gets the signal, or
// waits: rollout, backward, collective or checkpoint; the second time that it comes there.
import process from 'node:process';
import { runProgram } from '../../../dist/cli/program.js';
import { NativeProcessGroup } from '../../../dist/distributed/native-process-group.js';
import { TokenScores } from '../../../dist/models/token-scores.js';
import { nodeFileSystem } from '../../../dist/platform/node.js';
import { NativeEngine } from '../../../dist/rollout/native-engine.js';

const fault = process.env.FAULT ? JSON.parse(process.env.FAULT) : null;
let visits = 0;

/** Calls `target[name]` after the fault, the second time that `applies`. */
function before(target, name, applies = () => true) {
  const original = target[name];
  target[name] = function (...args) {
    if (!applies(...args) || ++visits !== 2) return original.apply(this, args);
    if (fault.signal) process.kill(process.pid, fault.signal);
    if (!fault.delay) return original.apply(this, args);
    return new Promise((resolve) => setTimeout(resolve, fault.delay)).then(() => original.apply(this, args));
  };
}

const places = {
  rollout: () => before(NativeEngine.prototype, 'generate'),
  backward: () => before(TokenScores.prototype, 'backward'),
  collective: () => before(NativeProcessGroup.prototype, 'allReduce'),
  checkpoint: () => before(nodeFileSystem, 'writeAtomic', (path) => /partial.*optimizer/.test(path)),
};
if (fault) places[fault.at]();
process.exitCode = await runProgram(process.argv.slice(2));
