import { h } from './dom.js';

const pageSize = 20;
const symbols = { true: '✓', false: '✗', null: '?' };
const words = { true: 'met', false: 'not met', null: 'no verdict' };

/** The table of answers: filters, pages, and a dialog with one answer in full. */
export function createAnswers(report, elements) {
  const rows = report.answers;
  const state = { page: 0, shown: rows };
  const filters = createFilters(report, () => update(0));
  elements.filters.replaceChildren(...filters.elements);
  elements.filters.addEventListener('submit', (event) => event.preventDefault());
  const headings = ['Item', 'Result', 'Prompt', 'Response', `${report.checkName}s`];
  elements.head.replaceChildren(h('tr', {}, ...headings.map((name) => h('th', { scope: 'col' }, name))));

  function update(page) {
    state.shown = rows.filter(filters.accepts);
    state.page = page;
    const begin = page * pageSize;
    const visible = state.shown.slice(begin, begin + pageSize);
    elements.count.textContent = `${state.shown.length.toLocaleString('en')} of ${rows.length.toLocaleString('en')}`;
    elements.body.replaceChildren(...visible.map((row, i) => bodyRow(row, begin + i)));
    if (visible.length === 0)
      elements.body.append(h('tr', {}, h('td', { class: 'empty', colspan: headings.length }, 'No answer matches.')));
    const pages = Math.max(1, Math.ceil(state.shown.length / pageSize));
    const turn = (label, to) =>
      h('button', { type: 'button', disabled: to < 0 || to >= pages, onclick: () => update(to) }, label);
    elements.pager.replaceChildren(
      turn('‹ Previous', page - 1),
      h('span', {}, `Page ${page + 1} of ${pages}`),
      turn('Next ›', page + 1),
    );
  }

  function bodyRow(row, position) {
    const open = () => openDetails(elements.dialog, report, state.shown, position);
    const onkeydown = (event) => {
      if (event.key !== 'Enter' && event.key !== ' ') return;
      event.preventDefault();
      open();
    };
    const cell = (label, kind, ...content) => h('td', { class: kind, 'data-label': label }, ...content);
    return h(
      'tr',
      { tabindex: 0, onclick: open, onkeydown },
      cell('Item', 'short', row.id),
      cell('Result', 'short', badge(row.outcome, row.outcome)),
      cell('Prompt', 'text', h('span', { class: 'clip' }, row.prompt)),
      cell('Response', 'text', h('span', { class: 'clip' }, row.response)),
      cell(`${report.checkName}s`, 'checks-cell', checkList(row, false)),
    );
  }

  update(0);
}

function badge(kind, text, title) {
  return h('span', { class: `badge ${kind}`, title }, text);
}

function checkList(row, full) {
  return h(
    'ul',
    { class: 'checks' },
    ...row.checks.map(({ name, detail, verdicts }) =>
      h(
        'li',
        {},
        h(
          'span',
          { class: 'verdicts' },
          ...Object.entries(verdicts).map(([mode, verdict]) => {
            const kind = verdict === null ? 'undecided' : verdict ? 'pass' : 'fail';
            const text = full ? `${mode} ${symbols[verdict]}` : symbols[verdict];
            return badge(kind, text, `${mode}: ${words[verdict]}`);
          }),
        ),
        h('span', {}, name, full && detail ? h('span', { class: 'detail' }, ` ${detail}`) : null),
      ),
    ),
  );
}

function createFilters(report, changed) {
  const unique = (values) => [...new Set(values)].sort();
  const select = (...options) => h('select', { onchange: changed }, ...options.map((name) => h('option', {}, name)));
  const search = h('input', { type: 'search', placeholder: 'Text in prompt or response', oninput: changed });
  const outcome = select('all', ...unique(report.answers.map((row) => row.outcome)));
  const names = report.filterChecks ? unique(report.answers.flatMap((row) => row.checks.map(({ name }) => name))) : [];
  const check = select('all', ...names);
  const modes = unique(report.answers.flatMap((row) => row.checks.flatMap(({ verdicts }) => Object.keys(verdicts))));
  const options = modes.flatMap((mode) => [true, false, null].map((verdict) => ({ mode, verdict })));
  const verdict = select('any', ...options.map((option) => `${option.mode} ${words[option.verdict]}`));

  const accepts = (row) => {
    const needle = search.value.toLowerCase();
    if (needle && !`${row.prompt}\n${row.response}`.toLowerCase().includes(needle)) return false;
    if (outcome.selectedIndex > 0 && row.outcome !== outcome.value) return false;
    if (check.selectedIndex === 0 && verdict.selectedIndex === 0) return true;
    const wanted = options[verdict.selectedIndex - 1];
    return row.checks.some(({ name, verdicts }) => {
      if (check.selectedIndex > 0 && name !== check.value) return false;
      return !wanted || verdicts[wanted.mode] === wanted.verdict;
    });
  };
  const label = (text, input) => h('label', { class: 'control' }, `${text} `, input);
  const checkFilter = report.filterChecks ? [label(report.checkName, check)] : [];
  return {
    accepts,
    elements: [label('Search', search), label('Result', outcome), ...checkFilter, label('Verdict', verdict)],
  };
}

function openDetails(dialog, report, rows, position) {
  const show = (at) => {
    const row = rows[at];
    const move = (label, to) =>
      h('button', { type: 'button', disabled: to < 0 || to >= rows.length, onclick: () => show(to) }, label);
    const part = (name, text) => (text ? [h('h3', {}, name), h('pre', {}, text)] : []);
    dialog.replaceChildren(
      h(
        'div',
        { class: 'dialog-bar' },
        h('h2', { id: 'details-title' }, row.id, ' ', badge(row.outcome, row.outcome)),
        move('‹ Previous', at - 1),
        move('Next ›', at + 1),
        h('button', { type: 'button', onclick: () => dialog.close() }, 'Close'),
      ),
      ...(row.note ? [h('p', { class: 'note' }, row.note)] : []),
      h('h3', {}, `${report.checkName}s`),
      checkList(row, true),
      ...part('Prompt', row.prompt),
      ...part('Reasoning', row.reasoning),
      ...part('Response', row.response),
    );
    dialog.onkeydown = (event) => {
      const to = at + ({ ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0);
      if (to !== at && to >= 0 && to < rows.length) show(to);
    };
    dialog.scrollTop = 0;
    dialog.focus();
  };
  dialog.showModal();
  show(position);
}
