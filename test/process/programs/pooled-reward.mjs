import { pooledReward } from '../../../dist/index.js';

const module = new URL('rewards.mjs', import.meta.url).href;
const reward = pooledReward({ module, export: 'troubled', timeoutMs: 500 });
const sample = (completion) => ({ record: {}, prompt: '', completion });
console.log((await reward.score([sample('a'), sample('hang')])).join());
