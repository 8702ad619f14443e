import { formatNumber, h, svg } from './dom.js';

/** Which metrics share a chart, in the order of the page. What no entry names gets a chart of its own at the end.
 * `exact`: nothing that was measured, so there is nothing to smooth. */
const layout = [
  { title: 'Reward', metrics: /^(eval\/)?reward$/ },
  { title: 'Reward by part', metrics: /^rewards\/(.+)\/mean$/ },
  { title: 'Held-out reward by part', metrics: /^eval\/rewards\/(.+)\/mean$/ },
  { title: 'Held-out accuracy by run', metrics: /^runs\/(.+)\/accuracy$/ },
  { title: 'Loss', metrics: /^(eval\/)?loss$/ },
  { title: 'Cross-entropy of demonstrations', metrics: /^sft_loss$/ },
  { title: 'Thinking completions that contrast keeps', metrics: /^contrast\/(kept|below_reference|worse_group)$/ },
  { title: 'Score with and without thinking', metrics: /^contrast\/(.+)_score$/ },
  { title: 'Token accuracy', metrics: /^(eval\/)?mean_token_accuracy$/ },
  { title: 'KL to the reference', metrics: /^kl$/ },
  { title: 'Entropy', metrics: /^(eval\/)?entropy$/ },
  { title: 'Clip ratios', metrics: /^clip_ratio\/(.+)$/ },
  { title: 'Completion length (tokens)', metrics: /^completions\/((?:mean|min|max)_length)$/ },
  { title: 'Gradient norm', metrics: /^grad_norm$/ },
  { title: 'Learning rate', metrics: /^learning_rate$/, exact: true },
  { title: 'Standard deviation of the reward', metrics: /^(eval\/)?reward_std$/ },
  { title: 'Standard deviation by part', metrics: /^rewards\/(.+)\/std$/ },
  { title: 'Groups with equal rewards', metrics: /^(eval\/)?frac_reward_zero_std$/ },
  { title: 'Unscorable completions', metrics: /^(eval\/)?frac_reward_unscorable$/ },
  { title: 'Cut at the length limit', metrics: /^(eval\/)?completions\/clipped_ratio$/ },
  { title: 'Length of those not cut', metrics: /^completions\/((?:mean|min|max)_terminated_length)$/ },
  { title: 'Held-out completion length', metrics: /^eval\/completions\/((?:mean|min|max)_length)$/ },
  { title: 'Probability ratio', metrics: /^ratio\/(.+)$/ },
  { title: 'KL to the sampling policy', metrics: /^policy_kl$/ },
  { title: 'Tokens per second', metrics: /^tokens_per_second$/ },
  { title: 'Seconds per step', metrics: /^step_seconds$/ },
  { title: 'Tokens seen', metrics: /^num_tokens$/, exact: true },
  { title: 'Epoch', metrics: /^epoch$/, exact: true },
];

const colours = 8;

/** The charts to draw for these metric names: `[{ title, exact, series: [{ name, label }] }]`. */
export function planCharts(names) {
  const rest = new Set(names);
  const charts = layout.map(({ title, metrics, exact = false }) => {
    const matched = names.filter((name) => rest.has(name) && metrics.test(name));
    for (const name of matched) rest.delete(name);
    const series = matched.map((name) => ({ name, label: labelOf(name, metrics) }));
    return { title, exact, series };
  });
  const other = [...rest].map((name) => ({ title: name, exact: false, series: [{ name, label: name }] }));
  return [...charts.filter((chart) => chart.series.length > 0), ...other];
}

function labelOf(name, pattern) {
  const part = pattern.exec(name)?.[1];
  if (part !== undefined && part !== 'eval/') return part.replaceAll('_', ' ');
  return name.startsWith('eval/') ? 'held out' : 'training';
}

/** Round tick values that cover [low, high]. */
export function niceTicks(low, high, count) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
    ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

/** Exponential moving average with bias correction; gaps (null) stay gaps. */
export function smooth(values, weight) {
  let sum = 0;
  let norm = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = sum * weight + value * (1 - weight);
    norm = norm * weight + (1 - weight);
    return sum / norm;
  });
}

/** Draws all charts into `root`. Returns `{ setSmoothing }`. */
export function drawCharts(root, metrics) {
  const state = { smoothing: 0, cursor: null };
  const charts = [];
  const redrawCursor = () => {
    for (const chart of charts) chart.drawCursor();
  };
  const moveCursor = (step) => {
    state.cursor = step;
    redrawCursor();
  };
  for (const plan of planCharts(Object.keys(metrics.columns))) {
    const chart = createChart(plan, metrics, state, moveCursor);
    charts.push(chart);
    root.append(chart.element);
  }
  const observer = new ResizeObserver((entries) => {
    for (const entry of entries) charts.find((chart) => chart.plot === entry.target)?.draw();
  });
  for (const chart of charts) observer.observe(chart.plot);
  return {
    setSmoothing(weight) {
      state.smoothing = weight;
      for (const chart of charts) chart.draw();
    },
  };
}

const margin = { top: 8, right: 12, bottom: 24, left: 52 };
const height = 210;

function createChart(plan, metrics, state, moveCursor) {
  const series = plan.series.map(({ name, label }, index) => createSeries(metrics, name, label, index));
  const plot = h('div', { class: 'plot', tabindex: 0, role: 'img', 'aria-label': describeChart(plan, series) });
  const legend = h('div', { class: 'legend' });
  const element = h('figure', { class: 'chart' }, h('figcaption', {}, plan.title), legend, plot);
  const cursorLine = svg('line', { class: 'cursor', y1: margin.top, y2: height - margin.bottom });
  let scale = null;

  const values = series.map((one) => {
    const value = h('b', {});
    const toggle = () => {
      one.hidden = !one.hidden;
      button.classList.toggle('off', one.hidden);
      button.setAttribute('aria-pressed', String(!one.hidden));
      draw();
    };
    const swatch = h('i', { class: `swatch ${one.colour}` });
    const button = h(
      'button',
      { type: 'button', onclick: toggle, 'aria-pressed': 'true' },
      swatch,
      series.length > 1 ? one.label : '',
      ' ',
      value,
    );
    legend.append(button);
    return value;
  });

  function draw() {
    const width = plot.clientWidth;
    if (width === 0) return;
    const shown = series.filter((one) => !one.hidden);
    scale = createScale(shown, metrics.steps, width);
    const picture = svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, 'aria-hidden': 'true' });
    drawAxes(picture, scale, width);
    for (const one of shown) drawSeries(picture, one, scale, plan.exact ? 0 : state.smoothing);
    picture.append(cursorLine);
    plot.replaceChildren(picture);
    drawCursor();
  }

  function drawCursor() {
    if (!scale) return;
    const last = metrics.steps.at(-1);
    const step = state.cursor ?? last;
    cursorLine.setAttribute('visibility', state.cursor === null ? 'hidden' : 'visible');
    cursorLine.setAttribute('x1', scale.x(step));
    cursorLine.setAttribute('x2', scale.x(step));
    series.forEach((one, index) => {
      const point = one.at(step);
      const elsewhere = point && point.step !== step ? ` @ ${point.step}` : '';
      values[index].textContent = point ? formatNumber(point.value) + elsewhere : '–';
    });
  }

  const stepAt = (event) => {
    const x = event.clientX - plot.getBoundingClientRect().left;
    return nearest(metrics.steps, scale.step(x));
  };
  plot.addEventListener('pointermove', (event) => scale && moveCursor(stepAt(event)));
  plot.addEventListener('pointerleave', () => moveCursor(null));
  plot.addEventListener('blur', () => moveCursor(null));
  plot.addEventListener('keydown', (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    const at = state.cursor === null ? metrics.steps.length - 1 : metrics.steps.indexOf(state.cursor) + move;
    moveCursor(metrics.steps[Math.min(Math.max(at, 0), metrics.steps.length - 1)]);
  });
  return { element, plot, draw, drawCursor };
}

function createSeries(metrics, name, label, index) {
  const values = metrics.columns[name];
  const points = values.flatMap((value, i) => (value === null ? [] : [{ step: metrics.steps[i], value }]));
  // Evaluations are few: they are drawn as dots, joined, and not smoothed.
  const sparse = points.length <= Math.max(1, metrics.steps.length / 3);
  const at = (step) => points.findLast((point) => point.step <= step) ?? null;
  return { label, points, sparse, at, hidden: false, colour: `c${index % colours}` };
}

function createScale(series, steps, width) {
  const values = series.flatMap((one) => one.points.map((point) => point.value));
  let low = values.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
  let high = values.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  if (values.length === 0) [low, high] = [0, 1];
  const pad = (high - low || Math.abs(high) || 1) * 0.06;
  const bottom = low >= 0 && low - pad < 0 ? 0 : low - pad;
  const top = high + pad;
  const first = steps[0] ?? 0;
  const span = (steps.at(-1) ?? 1) - first || 1;
  const inner = width - margin.left - margin.right;
  return {
    bottom,
    top,
    first,
    last: first + span,
    x: (step) => margin.left + ((step - first) / span) * inner,
    y: (value) => margin.top + (1 - (value - bottom) / (top - bottom)) * (height - margin.top - margin.bottom),
    step: (x) => first + ((x - margin.left) / inner) * span,
  };
}

function drawAxes(picture, scale, width) {
  for (const value of niceTicks(scale.bottom, scale.top, 5)) {
    const y = scale.y(value);
    picture.append(
      svg('line', { class: 'grid', x1: margin.left, x2: width - margin.right, y1: y, y2: y }),
      svg('text', { class: 'tick', x: margin.left - 8, y: y + 4, 'text-anchor': 'end' }, formatNumber(value)),
    );
  }
  const ticks = niceTicks(scale.first, scale.last, Math.max(2, Math.floor(width / 60))).filter(Number.isInteger);
  for (const step of ticks) {
    const text = formatNumber(step);
    picture.append(svg('text', { class: 'tick', x: scale.x(step), y: height - 6, 'text-anchor': 'middle' }, text));
  }
}

function drawSeries(picture, one, scale, smoothing) {
  const path = (values) =>
    one.points
      .map((point, i) => `${i ? 'L' : 'M'}${scale.x(point.step).toFixed(1)} ${scale.y(values[i]).toFixed(1)}`)
      .join('');
  const raw = one.points.map((point) => point.value);
  const smoothed = smoothing > 0 && !one.sparse;
  picture.append(svg('path', { class: `line ${one.colour}${smoothed ? ' faint' : ''}`, d: path(raw) }));
  if (smoothed) picture.append(svg('path', { class: `line ${one.colour}`, d: path(smooth(raw, smoothing)) }));
  if (!one.sparse && one.points.length > 1) return;
  for (const point of one.points) {
    picture.append(
      svg('circle', { class: `dot ${one.colour}`, cx: scale.x(point.step), cy: scale.y(point.value), r: 3 }),
    );
  }
}

function describeChart(plan, series) {
  const ends = series.map((one) => {
    const first = one.points[0];
    const last = one.points.at(-1);
    return first
      ? `${one.label} from ${formatNumber(first.value)} to ${formatNumber(last.value)}`
      : `${one.label} without values`;
  });
  return `${plan.title}: ${ends.join(', ')}`;
}

function nearest(steps, wanted) {
  let low = 0;
  let high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low > 0 && wanted - steps[low - 1] < steps[low] - wanted ? steps[low - 1] : steps[low];
}
