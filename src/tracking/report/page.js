import { drawCharts } from './charts.js';
import { createCompletions } from './completions.js';
import { formatNumber, h } from './dom.js';

const element = (id) => document.getElementById(id);
const data = JSON.parse(element('data').textContent);

element('subtitle').textContent = data.subtitle;
element('config').textContent = data.config;
showNote('metrics-note', data.metrics.note);
showNote('completions-note', data.completions.note);
element('tiles').append(
  ...tiles(data.metrics).map(([name, value]) =>
    h('div', { class: 'tile' }, h('span', {}, name), h('strong', {}, value)),
  ),
);

const charts = drawCharts(element('charts'), data.metrics);
const slider = element('smoothing');
const applySmoothing = () => {
  const weight = Number(slider.value);
  element('smoothing-value').textContent = weight === 0 ? 'off' : weight.toFixed(2);
  charts.setSmoothing(weight);
};
slider.addEventListener('input', applySmoothing);
applySmoothing();

createCompletions(data.completions, {
  filters: element('filters'),
  count: element('completions-count'),
  head: document.querySelector('#table thead'),
  body: document.querySelector('#table tbody'),
  pager: element('pager'),
  dialog: element('details'),
});
element('details').addEventListener('click', (event) => {
  if (event.target === event.currentTarget) event.currentTarget.close();
});

function showNote(id, note) {
  element(id).hidden = !note;
  element(id).textContent = note ?? '';
}

/** The numbers at the top: where the run began and where it ended. */
function tiles(metrics) {
  const values = (name) => (metrics.columns[name] ?? []).filter((value) => value !== null);
  const tenth = (all) => Math.max(1, Math.round(all.length / 10));
  const mean = (all) => all.reduce((a, b) => a + b, 0) / all.length;
  const change = (first, last) => `${formatNumber(first)} → ${formatNumber(last)}`;
  const shown = [['Steps', formatNumber(metrics.steps.at(-1) ?? 0)]];
  const add = (name, label, text) => {
    const all = values(name);
    if (all.length > 0) shown.push([label, text(all)]);
  };
  const ends = (all) => change(all[0], all.at(-1));
  const tenths = (all) => change(mean(all.slice(0, tenth(all))), mean(all.slice(-tenth(all))));
  add('eval/reward', 'Held-out reward', ends);
  add('reward', 'Reward, first → last tenth', tenths);
  if (values('reward').length === 0) add('loss', 'Loss, first → last tenth', tenths);
  add('kl', 'KL', (all) => formatNumber(all.at(-1)));
  add('completions/mean_length', 'Completion length', ends);
  add('tokens_per_second', 'Tokens/s', (all) => formatNumber(mean(all)));
  return shown;
}
