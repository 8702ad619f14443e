import '../../../dist/index.js';
import { loadRewards } from '../../../dist/cli/rewards.js';

const rewards = await loadRewards([
  { name: 'maths', pool: { size: 1, timeoutMs: 20_000 } },
  { name: 'regex', pattern: '^(a+)+$', weight: 2, pool: { size: 1, timeoutMs: 1000 } },
]);
const record = { prompt: '', answer: '0.5' };
const batch = (...completions) => completions.map((completion) => ({ record, prompt: '', completion }));
console.log(rewards.map(({ name, weight }) => `${name} ${weight}`).join());
console.log(JSON.stringify(await rewards[0].score(batch('\\boxed{\\frac12}', 'so 2'))));
console.log(JSON.stringify(await rewards[1].score(batch('aa', `${'a'.repeat(50)}b`, 'b'))));
