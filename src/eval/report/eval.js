import { createAnswers } from './answers.js';
import { h } from './dom.js';

const element = (id) => document.getElementById(id);
const report = JSON.parse(element('data').textContent);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const range = ({ low, high }) => `${(100 * low).toFixed(1)} – ${(100 * high).toFixed(1)}`;

element('subtitle').textContent = report.subtitle;
element('config').textContent = report.configuration;
element('notes').append(...report.notes.map((note) => h('p', { class: 'note' }, note)));
element('tiles').append(
  ...report.tiles.map(({ name, estimate, text }) =>
    h(
      'div',
      { class: 'tile' },
      h('span', {}, name),
      h('strong', {}, estimate ? percent(estimate.value) : text),
      estimate ? h('span', { class: 'interval' }, `${range(estimate)}, ${estimate.hits} of ${estimate.count}`) : null,
    ),
  ),
);
drawKinds(report.table);
createAnswers(report, {
  filters: element('filters'),
  count: element('answers-count'),
  head: document.querySelector('#answers-table thead'),
  body: document.querySelector('#answers-table tbody'),
  pager: element('pager'),
  dialog: element('details'),
});
element('details').addEventListener('click', (event) => {
  if (event.target === event.currentTarget) event.currentTarget.close();
});

/** Accuracy by kind: a bar with its interval for each estimate. */
function drawKinds(table) {
  if (!table) {
    element('kinds').remove();
    document.querySelector('nav a[href="#kinds"]').remove();
    return;
  }
  element('kinds-heading').textContent = table.heading;
  const headings = ['Kind', 'Count', ...table.columns];
  document
    .querySelector('#kinds-table thead')
    .append(h('tr', {}, ...headings.map((name) => h('th', { scope: 'col' }, name))));
  document
    .querySelector('#kinds-table tbody')
    .append(
      ...table.rows.map(({ name, level, estimates }) =>
        h(
          'tr',
          { class: level },
          h('td', {}, name),
          h('td', { 'data-label': 'Count' }, String(estimates[0].count)),
          ...estimates.map((estimate, i) =>
            h(
              'td',
              { 'data-label': table.columns[i] },
              percent(estimate.value),
              h('span', { class: 'interval' }, range(estimate)),
              bar(estimate),
            ),
          ),
        ),
      ),
    );
}

function bar({ value, low, high }) {
  const track = h('span', { class: 'track' }, h('span', { class: 'share' }), h('span', { class: 'range' }));
  track.children[0].style.width = `${100 * value}%`;
  track.children[1].style.left = `${100 * low}%`;
  track.children[1].style.width = `${100 * (high - low)}%`;
  return track;
}
