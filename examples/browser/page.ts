/** The page: asks the worker for one update after the other, and shows what it reports. */
import { Chart, element, mean } from './chart.js';
import type { WorkerMessage } from './messages.js';

type State = 'ready' | 'preparing' | 'training' | 'paused' | 'finished' | 'failed' | 'unsupported';

const find = <E extends HTMLElement>(id: string) => document.getElementById(id) as E;
const [start, pause, reset] = ['start', 'pause', 'reset'].map((id) => find<HTMLButtonElement>(id));
const charts = {
  reward: new Chart(find('reward-chart'), 'Reward (at most 1.5)', 'reward'),
  kl: new Chart(find('kl-chart'), 'KL to the start (nats a token)', 'kl'),
  entropy: new Chart(find('entropy-chart'), 'Entropy (nats a token)', 'entropy'),
};
const shownCompletions = 12;
const texts: Record<State, string> = {
  ready: 'Ready.',
  preparing: 'Preparing: the first update compiles the shaders.',
  training: 'Training.',
  paused: 'Paused.',
  finished: 'Finished.',
  failed: 'Training has failed.',
  unsupported: 'WebGPU is not available.',
};
const withoutWebGpu =
  'This browser offers no WebGPU here, so nothing can be trained. Use a current Chrome or Edge, Safari 26 or Firefox 141 ' +
  'and later where they have it, open the page over https or on localhost, and see that graphics acceleration is on in ' +
  'the settings. In Chrome, chrome://gpu says what is missing.';

let worker: Worker | null = null;
let state: State = 'ready';
let rewards: number[] = [];

function enter(next: State, problem = ''): void {
  state = next;
  document.body.dataset.state = next;
  find('status').textContent = texts[next];
  find('notice').hidden = problem === '';
  find('notice').textContent = problem;
  start!.disabled = !['ready', 'paused'].includes(next);
  start!.textContent = next === 'paused' ? 'Resume' : 'Start';
  pause!.disabled = next !== 'training';
  reset!.disabled = ['ready', 'unsupported'].includes(next);
}

function hear(message: WorkerMessage): void {
  if (message.type === 'ready') {
    find('adapter').textContent = message.adapter;
    find('weights').textContent = message.weights.toLocaleString('en');
    worker!.postMessage('update');
  } else if (message.type === 'update') {
    if (state === 'preparing') enter('training');
    show(message.report);
    waiting = false;
    if (state === 'training') ask();
  } else if (message.type === 'finished') enter('finished');
  else if (message.unavailable) enter('unsupported', `${withoutWebGpu} (${message.message})`);
  else enter('failed', message.message);
}

/** Whether an update is under way: at most one is. */
let waiting = false;
function ask(): void {
  if (waiting) return;
  waiting = true;
  worker!.postMessage('update');
}

function show({ step, metrics, completions }: Extract<WorkerMessage, { type: 'update' }>['report']): void {
  rewards.push(metrics.reward!);
  charts.reward.add(metrics.reward!);
  charts.kl.add(metrics.kl!);
  charts.entropy.add(metrics.entropy!);
  document.body.dataset.step = String(step);
  find('step').textContent = String(step);
  find('seconds').textContent = metrics.step_seconds!.toFixed(2);
  find('first-reward').textContent = mean(rewards.slice(0, 10)).toFixed(2);
  find('latest-reward').textContent = mean(rewards.slice(-10)).toFixed(2);
  // One of each prompt: a group shares its prompt, and stands together.
  const samples = completions.filter(({ prompt }, i) => prompt !== completions[i - 1]?.prompt);
  const rows = samples.map(({ prompt, completion, rewards: parts, reward }) => {
    const row = document.createElement('tr');
    row.append(
      element('td', String(step), 'number'),
      element('td', prompt),
      element('td', completion, 'completion'),
      ...[parts.rule, parts.variety, reward].map((value) => element('td', value?.toFixed(2) ?? '–', 'number')),
    );
    return row;
  });
  const table = find('completions');
  table.prepend(...rows);
  while (table.children.length > shownCompletions) table.lastElementChild!.remove();
}

start!.addEventListener('click', () => {
  if (state === 'paused') {
    enter('training');
    ask();
    return;
  }
  enter('preparing');
  waiting = true;
  const made = new Worker(new URL('./training.worker.ts', import.meta.url), { type: 'module' });
  made.addEventListener('message', ({ data }: MessageEvent<WorkerMessage>) => hear(data));
  made.addEventListener('error', ({ message }) => enter('failed', message || 'The worker could not be started.'));
  worker = made;
});
pause!.addEventListener('click', () => enter('paused'));
reset!.addEventListener('click', () => {
  // The device, its buffers and the model go with the worker.
  worker?.terminate();
  worker = null;
  waiting = false;
  rewards = [];
  for (const chart of Object.values(charts)) chart.clear();
  find('completions').replaceChildren();
  for (const id of ['first-reward', 'latest-reward', 'seconds']) find(id).textContent = '–';
  find('step').textContent = '0';
  document.body.dataset.step = '0';
  enter('ready');
  start!.focus();
});

if ('gpu' in navigator) {
  enter('ready');
  // Before somebody clicks in vain. The worker asks for its own.
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  if (!adapter && state === 'ready') enter('unsupported', `${withoutWebGpu} (no adapter was found)`);
} else enter('unsupported', withoutWebGpu);
