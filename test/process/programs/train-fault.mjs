// The command line with a fault: FAULT is JSON { at, signal } or { at, delay }. `at` is where the process gives itself the
// signal, or waits, the second time that it comes there: before a rollout; in a backward pass, between the attention of two
// layers; in a collective, when the others wait for its part; while it writes a checkpoint.
import process from 'node:process';
import { runProgram } from '../../../dist/cli/program.js';
import { NativeProcessGroup } from '../../../dist/distributed/native-process-group.js';
import { TokenScores } from '../../../dist/models/token-scores.js';
import { nodeFileSystem } from '../../../dist/platform/node.js';
import { NativeEngine } from '../../../dist/rollout/native-engine.js';
import { Device } from '../../../dist/tensor.js';

const fault = process.env.FAULT ? JSON.parse(process.env.FAULT) : null;
let visits = 0;

const gradientCount = 1000;

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

/** Counts the calls of `target[name]`. */
function countCalls(target, name) {
  const original = target[name];
  const calls = { count: 0 };
  target[name] = function (...args) {
    calls.count++;
    return original.apply(this, args);
  };
  return calls;
}

const places = {
  rollout: () => before(NativeEngine.prototype, 'generate'),
  backward: () => {
    const passes = countCalls(TokenScores.prototype, 'backward');
    before(Device.prototype, 'run', (name) => name === 'attentionBackward' && passes.count > 1);
  },
  // The first collectives of an update sum the gradients, which the others have sent when this rank waits for them here.
  collective: () => {
    const { allReduce } = NativeProcessGroup.prototype;
    const target = { fault() {} };
    before(target, 'fault');
    NativeProcessGroup.prototype.allReduce = function (tensor, options) {
      const pending = allReduce.call(this, tensor, options);
      if (tensor.size > gradientCount) target.fault();
      return pending;
    };
  },
  checkpoint: () => before(nodeFileSystem, 'writeAtomic', (path) => /partial.*optimizer/.test(path)),
};
if (fault) places[fault.at]();
process.exitCode = await runProgram(process.argv.slice(2));
