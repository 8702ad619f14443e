// One rank of a group of processes: node collective-rank.mjs <scenario> <rank> <worldSize> <argument>. The parent is the
// store by which the ranks find each other, and gets the reports.
import process from 'node:process';
import { openDevice } from '../../../dist/backend/open-device.js';
import { GradientBuckets } from '../../../dist/distributed/gradient-buckets.js';
import { openProcessGroup } from '../../../dist/distributed/open-process-group.js';
import { ShardedGradients } from '../../../dist/distributed/sharded-gradients.js';
import { receiveWeights, sendWeights } from '../../../dist/distributed/weight-transfer.js';
import { CausalLM } from '../../../dist/models/causal-lm.js';
import { gradientOrder } from '../../../dist/models/decoder.js';
import { Tokenizer } from '../../../dist/text/tokenizer.js';

const [scenario, rankText, worldText, argumentText] = process.argv.slice(2);
const rank = Number(rankText);
const worldSize = Number(worldText);
const argument = JSON.parse(argumentText);

const report = (value) => new Promise((resolve) => process.send({ report: value }, resolve));
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

const store = {
  async set(key, value) {
    process.send({ set: key, value: Buffer.from(value).toString('base64') });
  },
  get(key) {
    return new Promise((resolve) => {
      const listen = (message) => {
        if (message.key !== key) return;
        process.off('message', listen);
        resolve(Buffer.from(message.value, 'base64'));
      };
      process.on('message', listen);
      process.send({ get: key });
    });
  },
};

const open = async (options = {}) => {
  const device = await openDevice((argument?.device ?? 'cpu').replace('{rank}', rank));
  const group = await openProcessGroup({
    device,
    rank,
    worldSize,
    localRank: rank,
    store,
    timeoutSeconds: 20,
    interface: device.kind === 'cpu' ? '127.0.0.1' : undefined,
    ...options,
  });
  return { device, group };
};

/** What an awaited failure says, without what differs from run to run. */
const failureOf = async (promise) => {
  const start = performance.now();
  try {
    await promise;
    return { ok: true };
  } catch (error) {
    const { name, code, reason, peer, collective, sequence, size, message } = error;
    const seconds = (performance.now() - start) / 1000;
    return { name, code, reason, peer, collective, sequence, size, message, seconds };
  }
};

/** Whole numbers that differ from rank to rank and place to place; their sums are exact in every dtype. */
const period = 13;
const value = (rank, i) => ((i * 7 + rank * 3) % period) - 6;
const values = (count) => Float32Array.from({ length: count }, (_, i) => value(rank, i));
const shape = {
  hiddenSize: 32,
  intermediateSize: 64,
  numHiddenLayers: 3,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 128,
  tieWordEmbeddings: true,
  initializerRange: 0.2,
};
const ranks = Array.from({ length: worldSize }, (_, r) => r);

/** Throws when a tensor differs from what it should hold: a function of the element's number that repeats itself. */
const expectValues = async (what, tensor, expected) => {
  const got = await tensor.read();
  const table = Array.from({ length: period }, (_, i) => expected(i));
  for (let i = 0; i < got.length; i++) {
    if (got[i] !== table[i % period]) throw new Error(`${what}: element ${i} is ${got[i]}, not ${table[i % period]}`);
  }
};

/** How many collectives have ended, once no more end by themselves. */
const endedCollectives = async (group) => {
  for (let last = -1; ; await sleep(300)) {
    const { collectives } = group.statistics();
    if (collectives === last) return last;
    last = collectives;
  }
};

const scenarios = {
  /** Every collective, dtype and size against computed values. */
  async everyCollective() {
    const { device, group } = await open();
    let checked = 0;
    for (const { dtype, counts } of argument.cases) {
      for (const count of counts) {
        const what = (name) => `${name} of ${count} ${dtype}`;
        const sum = (i) => ranks.reduce((total, r) => total + value(r, i), 0);
        for (const [op, expected] of Object.entries({
          sum,
          max: (i) => Math.max(...ranks.map((r) => value(r, i))),
          min: (i) => Math.min(...ranks.map((r) => value(r, i))),
        })) {
          const x = device.tensor(dtype === 'i32' ? Int32Array.from(values(count)) : values(count), [count], dtype);
          group.allReduce(x, { op }).wait();
          await expectValues(what(`allReduce ${op}`), x, expected);
          x.dispose();
        }
        const all = worldSize * count;
        const whole = device.tensor(dtype === 'i32' ? Int32Array.from(values(all)) : values(all), [all], dtype);
        const part = device.empty([count], dtype);
        group.reduceScatter(whole, part);
        await expectValues(what('reduceScatter'), part, (i) => sum(rank * count + i));
        await expectValues(what('the input of reduceScatter'), whole, (i) => value(rank, i));
        // In place: the output is part `rank` of the input.
        const own = whole.view([count], rank * count);
        group.reduceScatter(whole, own);
        await expectValues(what('reduceScatter in place'), own, (i) => sum(rank * count + i));
        const gathered = device.empty([all], dtype);
        group.allGather(part, gathered);
        await expectValues(what('allGather'), gathered, sum);
        group.allGather(own, whole);
        await expectValues(what('allGather in place'), whole, sum);
        const root = count % worldSize;
        const sent = device.tensor(dtype === 'i32' ? Int32Array.from(values(count)) : values(count), [count], dtype);
        group.broadcast(sent, root);
        await expectValues(what('broadcast'), sent, (i) => value(root, i));
        sent.write(dtype === 'i32' ? Int32Array.from(values(count)) : values(count));
        group.reduce(sent, root);
        await expectValues(what('reduce'), sent, rank === root ? sum : (i) => value(rank, i));
        for (const tensor of [whole, part, own, gathered, sent]) tensor.dispose();
        checked += 9;
      }
    }
    await group.barrier();
    const { bytesSent, collectives } = group.statistics();
    await group.close();
    const { liveTensors } = device.memory();
    device.close();
    await report({ checked, liveTensors, collectives, sent: bytesSent > 0 });
  },

  /** Ranks come late by turns; values of any length; order of later operations; memory given back early. */
  async ordinaryUse() {
    const { device, group } = await open();
    for (let late = 0; late < worldSize; late++) {
      if (late === rank) await sleep(300);
      const x = device.tensor(values(1000), [1000]);
      const y = device.empty([1000]);
      group.allReduce(x);
      // No wait: what is queued later sees the sums all the same.
      device.run('add', { a: x, b: x, out: y, alpha: 1, beta: 0 });
      device.run('fill', { out: x, value: 0 });
      x.dispose();
      await expectValues('a copy', y, (i) => ranks.reduce((total, r) => total + value(r, i), 0));
      y.dispose();
    }
    const gathered = await group.allGatherValues({ rank, text: 'ä'.repeat(rank * 50), none: null });
    await group.close();
    await report({ gathered, liveTensors: device.memory().liveTensors, failure: group.failure });
    device.close();
  },

  /** Weights from rank 0 to the others. */
  async weights() {
    const { device, group } = await open();
    const { count } = argument;
    const own = device.tensor(values(count), [count]);
    if (rank === 0) await sendWeights(group, own);
    const held = rank === 0 ? own : await receiveWeights(group, device, count, 'f32');
    await expectValues('the weights', held, (i) => value(0, i));
    if (held !== own) held.dispose();
    own.dispose();
    await group.close();
    await report({ liveTensors: device.memory().liveTensors });
    device.close();
  },

  /** The bits of sums of arbitrary numbers, formed in different ways. */
  async bits() {
    const { device, group } = await open();
    const count = 4096 * worldSize;
    const mixed = (r, i) => Math.fround(Math.sin(i * 12.9898 + r * 78.233) * 10 ** ((i % 9) - 4));
    const fresh = () =>
      device.tensor(
        Float32Array.from({ length: count }, (_, i) => mixed(rank, i)),
        [count],
      );
    const ordered = Float32Array.from({ length: count }, (_, i) =>
      ranks.slice(1).reduce((sum, r) => Math.fround(sum + mixed(r, i)), mixed(0, i)),
    );
    const whole = fresh();
    group.allReduce(whole);
    const pieces = fresh();
    for (let begin = 0; begin < count; begin += 999) {
      group.allReduce(pieces.view([Math.min(999, count - begin)], begin));
    }
    const scattered = fresh();
    const own = scattered.view([4096], rank * 4096);
    group.reduceScatter(scattered, own);
    group.allGather(own, scattered);
    const hex = async (tensor) => Buffer.from(await tensor.readBytes()).toString('base64');
    const expected = Buffer.from(ordered.buffer).toString('base64');
    const ways = { whole: await hex(whole), pieces: await hex(pieces), scattered: await hex(scattered) };
    await group.close();
    await report(Object.fromEntries(Object.entries(ways).map(([way, bytes]) => [way, bytes === expected])));
    device.close();
  },

  /** Gradients of a small model, each rank with sequences of its own: in buckets, and in one piece. */
  async buckets() {
    const { device, group } = await open();
    const options = { device, seed: 1 };
    const policy = CausalLM.create(shape, Tokenizer.fromCharacters('0123456789abcdefghij'), options);
    const { parameters } = policy;
    parameters.enableGradients();
    const sequences = [{ promptIds: [2 + rank, 3], completionIds: [4, 5 + rank, 6].slice(0, 2 + rank) }];
    const order = gradientOrder(policy.config);
    const backward = (onGradients) => {
      if (parameters.gradients) parameters.zeroGradients();
      const scores = policy.score(sequences, { gradients: true, onGradients });
      const ones = device.tensor(new Float32Array(scores.logProbs.size).fill(1), [scores.logProbs.size]);
      scores.backward(ones);
      ones.dispose();
      scores.dispose();
    };
    backward();
    group.allReduce(parameters.gradients);
    const whole = await parameters.gradients.read();
    const buckets = new GradientBuckets(group, parameters, order, { bucketBytes: 4096 });
    const before = await endedCollectives(group);
    backward((prefix) => buckets.complete(prefix));
    const early = (await endedCollectives(group)) - before;
    buckets.finish();
    const got = await parameters.gradients.read();
    const sharded = new ShardedGradients(group, parameters, order);
    parameters.enableGradients(sharded);
    const start = await endedCollectives(group);
    backward((prefix) => sharded.complete(prefix));
    const shardsEarly = (await endedCollectives(group)) - start;
    sharded.finish();
    const { offset, count } = parameters.shard(rank, worldSize);
    const own = await sharded.sums.read();
    const same = (values, from) => values.every((value, i) => Object.is(value, whole[from + i]));
    const result = {
      ...{ allReduce: same(got, 0) && got.length === parameters.count, early, shardsEarly },
      shards: own.length === count && same(own, offset),
    };
    sharded.dispose();
    await group.close();
    policy.dispose();
    await report(result);
    device.close();
  },

  /** Rank 1 calls something else than the others. */
  async mismatch() {
    const { device, group } = await open();
    const { kind, count = 10, dtype = 'f32', op = 'sum', root = 0 } = argument[rank === 1 ? 1 : 0];
    const x = device.zeros([count], dtype);
    const wide = device.zeros([count * worldSize], dtype);
    if (kind === 'allReduce') group.allReduce(x, { op });
    if (kind === 'reduceScatter') group.reduceScatter(wide, x);
    if (kind === 'allGather') group.allGather(x, wide);
    if (kind === 'broadcast') group.broadcast(x, root);
    const written = kind === 'allGather' ? wide : x;
    await report(await failureOf(kind === 'close' ? group.close() : written.read()));
    device.close();
  },

  /** Rank 1 dies or stops (`argument.signal`) in the middle of many large collectives; the others go on. */
  async lostPeer() {
    const { device, group } = await open({ timeoutSeconds: argument.timeoutSeconds });
    const x = device.zeros([1_000_000]);
    const y = device.zeros([1_000_000]);
    await group.barrier();
    for (let i = 0; i < 400; i++) group.allReduce(x);
    device.run('copy', { in: x, out: y });
    if (rank === 1) {
      await sleep(200);
      process.kill(process.pid, argument.signal);
      await sleep(60_000);
    }
    const first = await failureOf(y.read());
    const later = device.zeros([1]);
    group.allReduce(later);
    const second = await failureOf(later.read());
    const known = { failed: group.failure?.message === first.message };
    const closed = await failureOf(group.close());
    await report({ first, second, ...known, closed });
    device.close();
  },

  /** Rank 1 dies after it gave its address, before it connects; the system may still have taken the call for it. */
  async diesBeforeConnecting() {
    const brief = { ...store, get: rank === 1 ? () => process.kill(process.pid, 'SIGKILL') : store.get };
    const use = async () => {
      const { group } = await open({ store: brief, timeoutSeconds: 3 });
      await group.barrier();
    };
    await report(await failureOf(use()));
  },

  /** Rank 0 never comes; rank 1 is told to give up. */
  async abort() {
    const { device, group } = await open();
    const x = device.zeros([1000]);
    if (rank === 0) {
      // Its own connections are closed by the others; it has nothing in progress.
      await new Promise((resolve) => process.once('message', resolve));
      process.exit(0);
    }
    group.allReduce(x);
    if (rank === 1) setTimeout(() => group.abort('rank 0 stopped answering'), 300);
    await report({ first: await failureOf(x.read()), live: group.failure?.reason });
    device.close();
  },

  /** Values of all ranks. */
  async gatherValues() {
    const { device, group } = await open();
    const gathered = await group.allGatherValues([rank, 'é'.repeat(rank * 99)]);
    await group.close();
    device.close();
    await report({ gathered });
  },

  /** Rank 1 never joins the collective, which is aborted after `argument.abortAfter` milliseconds if that is given. */
  async lateRank() {
    const { device, group } = await open({ timeoutSeconds: argument.timeoutSeconds });
    if (rank === 1) return group.abort('it has nothing to do');
    const x = device.zeros([1000]);
    group.allReduce(x);
    if (argument.abortAfter) setTimeout(() => group.abort('it takes too long'), argument.abortAfter);
    await report(await failureOf(x.read()));
    device.close();
  },

  /** Only opens the group. */
  async opening() {
    await report(await failureOf(open()));
  },

  /** The parent sends rank 1 signals, stops it and lets it go on, while many collectives run. */
  async signals() {
    let signals = 0;
    process.on('SIGUSR2', () => signals++);
    const { device, group } = await open();
    await report('running');
    const x = device.tensor(values(100_000), [100_000]);
    const y = device.empty([100_000]);
    for (let round = 0; round < 30; round++) {
      device.run('copy', { in: x, out: y });
      group.allReduce(y);
      await sleep(20);
      await expectValues('allReduce', y, (i) => ranks.reduce((total, r) => total + value(r, i), 0));
    }
    await group.close();
    device.close();
    await report({ signalled: signals > 0 });
  },

  /** A child process that outlives rank 1 holds none of its connections. */
  async childOutlives() {
    const { device, group } = await open({ timeoutSeconds: 50 });
    const x = device.zeros([1000]);
    if (rank === 1) {
      const { spawn } = await import('node:child_process');
      const child = spawn(process.execPath, ['-e', 'setTimeout(() => {}, 20000)'], { stdio: 'ignore', detached: true });
      await report(child.pid);
      await group.barrier();
      process.kill(process.pid, 'SIGKILL');
    }
    await group.barrier();
    group.allReduce(x);
    await report(await failureOf(x.read()));
    device.close();
  },

  /** Rank 1 has no values to send: the memory for them could not be had. */
  async failedInput() {
    const { device, group } = await open();
    const x = rank === 1 ? device.empty([2 ** 45]).view([1000]) : device.zeros([1000]);
    group.allReduce(x);
    await report(await failureOf(x.read()));
    device.close();
  },

  /** Ends while a collective waits for rank 0, which does nothing. */
  async exitInFlight() {
    if (argument.how === 'worker' && rank !== 0) {
      const { Worker } = await import('node:worker_threads');
      const channel = store;
      const worker = new Worker(new URL('./collective-worker.mjs', import.meta.url), {
        workerData: { rank, worldSize },
      });
      worker.on('message', async (message) => {
        if (message.set) await channel.set(message.set, message.value);
        if (message.get) worker.postMessage({ key: message.get, value: await channel.get(message.get) });
        if (message.waiting) {
          await worker.terminate();
          await report('terminated');
        }
      });
      await new Promise((resolve) => worker.once('exit', resolve));
      return;
    }
    const { device, group } = await open();
    if (rank === 0) {
      await new Promise((resolve) => process.once('message', resolve));
      process.exit(0);
    }
    const x = device.zeros([1000]);
    group.allReduce(x);
    x.read().catch(() => {});
    if (argument.how === 'end') {
      const y = device.zeros([1000]);
      group.allReduce(y);
    }
    await sleep(200);
    await report('waiting');
    if (argument.how === 'exit') process.exit(5);
    if (argument.how === 'throw') throw new Error('on purpose');
    if (argument.how === 'close device') {
      device.close();
      await report('closed');
    }
  },
};

if (!(scenario in scenarios)) throw new Error(`no scenario ${scenario}`);
await scenarios[scenario]();
process.disconnect();
