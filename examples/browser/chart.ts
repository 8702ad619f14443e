const height = 200;
const margin = { top: 12, right: 20, bottom: 36, left: 46 };

/** A line chart that keeps its size while its values grow: a mean of neighbours over the faint line of each update. */
export class Chart {
  readonly #values: number[] = [];
  readonly #plot = document.createElement('div');
  readonly #title: string;
  readonly #caption = document.createElement('figcaption');

  constructor(figure: Element, title: string, colour: string) {
    this.#title = title;
    this.#plot.className = 'plot';
    this.#plot.style.color = `var(--${colour})`;
    figure.append(this.#caption, this.#plot);
    new ResizeObserver(() => this.#draw()).observe(this.#plot);
    this.#draw();
  }

  add(value: number): void {
    this.#values.push(value);
    this.#draw();
  }

  clear(): void {
    this.#values.length = 0;
    this.#draw();
  }

  #draw(): void {
    const values = this.#values;
    const width = this.#plot.clientWidth;
    const latest = values.at(-1)?.toFixed(2) ?? '–';
    this.#caption.replaceChildren(this.#title, ' ', element('b', latest));
    if (width === 0) return;
    const last = Math.max(50, Math.ceil(values.length / 50) * 50);
    const unit = tickUnit(Math.max(0.1, ...values));
    const top = Math.max(1, Math.ceil(Math.max(0.1, ...values) / unit)) * unit;
    const x = (step: number) => margin.left + (step / last) * (width - margin.left - margin.right);
    const y = (value: number) => height - margin.bottom - (value / top) * (height - margin.top - margin.bottom);
    const picture = svg('svg', { width, height, role: 'img', 'aria-label': this.#describe() });
    for (let tick = 0; tick <= top + unit / 2; tick += unit) {
      const right = width - margin.right;
      picture.append(
        svg('line', { class: 'grid', x1: margin.left, x2: right, y1: y(tick), y2: y(tick) }),
        svg('text', { x: margin.left - 8, y: y(tick) + 4, 'text-anchor': 'end' }, String(Number(tick.toFixed(2)))),
      );
    }
    for (const share of [0, 0.5, 1]) {
      const step = share * last;
      picture.append(svg('text', { x: x(step), y: height - 20, 'text-anchor': 'middle' }, String(step)));
    }
    picture.append(svg('text', { x: x(last / 2), y: height - 4, 'text-anchor': 'middle' }, 'update'));
    const line = (list: number[]) => list.map((value, i) => `${x(i + 1)},${y(value)}`).join(' ');
    const means = values.map((_, i) => mean(values.slice(Math.max(0, i - 4), i + 5)));
    picture.append(
      svg('polyline', { class: 'line faint', points: line(values) }),
      svg('polyline', { class: 'line', points: line(means) }),
    );
    this.#plot.replaceChildren(picture);
  }

  #describe(): string {
    const values = this.#values;
    if (values.length === 0) return `${this.#title}: no update yet`;
    return `${this.#title}: from ${values[0]!.toFixed(2)} to ${values.at(-1)!.toFixed(2)} in ${values.length} updates`;
  }
}

/** The mean; NaN of nothing. */
export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** An element with text, which is never markup: a model wrote some of it. */
export function element(tag: string, text: string, className = ''): HTMLElement {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

/** 1, 2 or 5 times a power of ten, so that about four of them make `most`. */
function tickUnit(most: number): number {
  const power = 10 ** Math.floor(Math.log10(most / 4));
  return [1, 2, 5, 10].map((factor) => factor * power).find((unit) => most / unit <= 4)!;
}

function svg(tag: string, attributes: Record<string, string | number>, text = ''): SVGElement {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.textContent = text;
  return made;
}
