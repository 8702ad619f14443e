import { formatNumber, h } from './dom.js';

const pageSize = 25;

/** The table of completions: filters, sorting, pages, and a dialog with one completion in full. */
export function createCompletions({ rows }, elements) {
  const parts = [...new Set(rows.flatMap((row) => Object.keys(row.rewards)))];
  const columns = createColumns(parts);
  const state = { sort: null, descending: true, page: 0, shown: rows };
  const filters = createFilters(rows, parts, () => update(0));
  elements.filters.replaceChildren(...filters.elements);
  elements.filters.addEventListener('submit', (event) => event.preventDefault());

  function update(page) {
    state.shown = sortRows(rows.filter(filters.accepts), columns[state.sort], state.descending);
    state.page = page;
    draw();
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(state.shown.length / pageSize));
    const begin = state.page * pageSize;
    const visible = state.shown.slice(begin, begin + pageSize);
    elements.count.textContent = `${state.shown.length.toLocaleString('en')} of ${rows.length.toLocaleString('en')}`;
    elements.head.replaceChildren(h('tr', {}, ...columns.map(headerCell)));
    elements.body.replaceChildren(...visible.map((row, i) => bodyRow(row, begin + i)));
    if (visible.length === 0)
      elements.body.append(h('tr', {}, h('td', { class: 'empty', colspan: columns.length }, 'No completion matches.')));
    const turn = (label, page, possible) =>
      h('button', { type: 'button', disabled: !possible, onclick: () => update(page) }, label);
    elements.pager.replaceChildren(
      turn('‹ Previous', state.page - 1, state.page > 0),
      h('span', {}, `Page ${state.page + 1} of ${pages}`),
      turn('Next ›', state.page + 1, state.page + 1 < pages),
    );
  }

  function headerCell(column, index) {
    const sorted = state.sort === index;
    const sort = () => {
      state.descending = sorted ? !state.descending : true;
      state.sort = index;
      update(0);
    };
    const arrow = sorted ? (state.descending ? ' ↓' : ' ↑') : '';
    const order = sorted ? (state.descending ? 'descending' : 'ascending') : 'none';
    return h(
      'th',
      { class: column.kind, scope: 'col', 'aria-sort': order },
      h('button', { type: 'button', onclick: sort }, column.label + arrow),
    );
  }

  function bodyRow(row, position) {
    const open = () => openDetails(elements.dialog, state.shown, position, parts);
    const cells = columns.map((column) => {
      const cell = h('td', { class: column.kind, 'data-label': column.label }, column.cell(row));
      if (column.kind === 'number') cell.style.setProperty('--share', column.share(row));
      return cell;
    });
    const onkeydown = (event) => {
      if (event.key === 'Enter' || event.key === ' ') {
        event.preventDefault();
        open();
      }
    };
    return h('tr', { tabindex: 0, onclick: open, onkeydown }, ...cells);
  }

  update(0);
}

function createColumns(parts) {
  const text = (label, name) => ({
    label,
    kind: 'text',
    value: (row) => row[name],
    cell: (row) => h('span', { class: 'clip' }, row[name]),
  });
  const short = (label, name) => ({
    label,
    kind: 'short',
    value: (row) => row[name],
    cell: (row) => String(row[name]),
  });
  const number = (label, value) => ({
    label,
    kind: 'number',
    value,
    cell: (row) => formatNumber(value(row)),
    share: (row) => share(value(row)),
  });
  return [
    short('Step', 'step'),
    short('Split', 'split'),
    text('Prompt', 'prompt'),
    text('Completion', 'completion'),
    number('Reward', (row) => row.reward),
    ...parts.map((part) => number(part, (row) => row.rewards[part] ?? null)),
    number('Advantage', (row) => row.advantage),
    short('Stop', 'stopReason'),
  ];
}

/** How strongly a number colours its cell, from -1 to 1. */
function share(value) {
  return value === null ? 0 : Math.max(-1, Math.min(1, value));
}

function createFilters(rows, parts, changed) {
  const steps = rows.map((row) => row.step);
  const splits = [...new Set(rows.map((row) => row.split))];
  const search = h('input', { type: 'search', placeholder: 'Text in prompt or completion', oninput: changed });
  const split = h('select', { onchange: changed }, ...['all', ...splits].map((name) => h('option', {}, name)));
  const input = (name, value) =>
    h('input', { type: 'number', 'aria-label': name, placeholder: name, step: 'any', value, oninput: changed });
  const fromStep = input(
    'from',
    steps.reduce((a, b) => Math.min(a, b), steps[0] ?? 0),
  );
  const toStep = input(
    'to',
    steps.reduce((a, b) => Math.max(a, b), steps[0] ?? 0),
  );
  const part = h('select', { onchange: changed }, ...['reward', ...parts].map((name) => h('option', {}, name)));
  const least = input('at least', '');
  const most = input('at most', '');
  const bound = (element, otherwise) => (element.value === '' ? otherwise : Number(element.value));

  const accepts = (row) => {
    const needle = search.value.toLowerCase();
    if (needle && !row.prompt.toLowerCase().includes(needle) && !row.completion.toLowerCase().includes(needle))
      return false;
    if (split.value !== 'all' && row.split !== split.value) return false;
    if (row.step < bound(fromStep, -Infinity) || row.step > bound(toStep, Infinity)) return false;
    if (least.value === '' && most.value === '') return true;
    const value = part.selectedIndex === 0 ? row.reward : row.rewards[part.value];
    return typeof value === 'number' && value >= bound(least, -Infinity) && value <= bound(most, Infinity);
  };
  const label = (text, ...inputs) => h('label', { class: 'control' }, `${text} `, ...inputs);
  const group = (text, ...inputs) =>
    h('span', { class: 'control', role: 'group', 'aria-label': text }, `${text} `, ...inputs);
  return {
    accepts,
    elements: [
      label('Search', search),
      label('Split', split),
      group('Steps', fromStep, toStep),
      group('Score', part, least, most),
    ],
  };
}

function sortRows(rows, column, descending) {
  if (!column) return rows;
  const sign = descending ? -1 : 1;
  const compare = (a, b) => {
    const x = column.value(a);
    const y = column.value(b);
    if (x === y) return 0;
    if (x === null) return 1; // what has no value comes last in both directions
    if (y === null) return -1;
    return x < y ? -sign : sign;
  };
  return rows.toSorted(compare);
}

function openDetails(dialog, rows, position, parts) {
  const show = (at) => {
    const row = rows[at];
    const fact = (name, value) => h('div', {}, h('dt', {}, name), h('dd', {}, value));
    const move = (label, to) =>
      h('button', { type: 'button', disabled: to < 0 || to >= rows.length, onclick: () => show(to) }, label);
    dialog.replaceChildren(
      h(
        'div',
        { class: 'dialog-bar' },
        h('h2', { id: 'details-title' }, `Step ${row.step}, ${row.split}`),
        move('‹ Previous', at - 1),
        move('Next ›', at + 1),
        h('button', { type: 'button', onclick: () => dialog.close() }, 'Close'),
      ),
      h(
        'dl',
        { class: 'facts' },
        fact('Reward', formatNumber(row.reward)),
        ...parts.map((part) =>
          fact(part, row.rewards[part] === null ? 'not scorable' : formatNumber(row.rewards[part])),
        ),
        fact('Advantage', formatNumber(row.advantage)),
        fact('Stopped by', row.stopReason),
      ),
      h('h3', {}, 'Prompt'),
      h('pre', {}, row.prompt),
      h('h3', {}, 'Completion'),
      h('pre', {}, row.completion),
    );
    dialog.onkeydown = (event) => {
      const to = at + ({ ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0);
      if (to !== at && to >= 0 && to < rows.length) show(to);
    };
    dialog.focus();
  };
  dialog.showModal();
  show(position);
}
