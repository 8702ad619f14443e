// One rank of a group of processes: node collective-rank.mjs <scenario> <rank> <worldSize> <argument>. The parent is the
// store by which the ranks find each other, and gets the reports.
import process from 'node:process';
import { openDevice } from '../../../dist/backend/open-device.js';
import { openProcessGroup } from '../../../dist/distributed/open-process-group.js';

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
  const device = await openDevice(argument?.device ?? 'cpu');
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
const ranks = Array.from({ length: worldSize }, (_, r) => r);

/** Throws when a tensor differs from what it should hold: a function of the element's number that repeats itself. */
const expectValues = async (what, tensor, expected) => {
  const got = await tensor.read();
  const table = Array.from({ length: period }, (_, i) => expected(i));
  for (let i = 0; i < got.length; i++) {
    if (got[i] !== table[i % period]) throw new Error(`${what}: element ${i} is ${got[i]}, not ${table[i % period]}`);
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
        for (const tensor of [whole, part, own, gathered, sent]) tensor.dispose();
        checked += 8;
      }
    }
    await group.barrier();
    const { bytesSent, collectives } = group.statistics();
    await group.close();
    const { liveTensors } = device.memory();
    device.close();
    await report({ checked, liveTensors, collectives, sent: bytesSent > 0 });
  },

  /** Time and bytes of all-reduces of one size. */
  async bandwidth() {
    const { device, group } = await open();
    const x = device.zeros([argument.count]);
    const times = [];
    for (let i = 0; i < argument.repeats; i++) {
      await group.barrier();
      const start = performance.now();
      group.allReduce(x);
      await device.synchronize();
      await x.view([1]).read();
      times.push(performance.now() - start);
    }
    await group.close();
    device.close();
    await report({ times });
  },
};

if (!(scenario in scenarios)) throw new Error(`no scenario ${scenario}`);
await scenarios[scenario]();
process.disconnect();
