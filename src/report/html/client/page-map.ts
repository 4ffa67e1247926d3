import { PAGE_SIZE } from '../../../memory/page.js';
import { PAGE_FATES, type PageFate, type PageFateCounts } from '../../../migration/page-fates.js';
import { decodePageRuns } from '../../page-runs.js';
import { element } from './dom.js';
import { FATE_NAMES, onThemeChange, theme } from './theme.js';

/** Pages in a row of the map: one block of the largest order, 4 MiB. */
const ROW_PAGES = 1024;

/** The fates out of a report's text (`report/page-map.ts`). */
export async function decodeMap(text: string, pfnSpan: number): Promise<Uint8Array> {
  const packed = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
  return decodePageRuns(new Uint8Array(await new Response(stream).arrayBuffer()), pfnSpan);
}

/** What of the map is looked at: in columns (pages) and rows. */
interface View {
  x: number;
  y: number;
  width: number;
  height: number;
}

function rgb(colour: string): [number, number, number] {
  const value = Number.parseInt(colour.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

function pagesText(count: number): string {
  return `${count.toLocaleString('en')} ${count === 1 ? 'page' : 'pages'}`;
}

/**
 * The map of a guest's memory: a row is 4 MiB, a point one page or, from afar, the mixture of some. It is zoomed and
 * moved with the mouse, with fingers, and with the keys; a fate that is picked out is seen from any distance.
 */
export class PageMap {
  readonly node: HTMLElement;
  readonly #fates: Uint8Array;
  readonly #rows: number;
  readonly #canvas: HTMLCanvasElement;
  readonly #where: HTMLElement;
  readonly #legend: HTMLElement;
  readonly #pointers = new Map<number, { x: number; y: number }>();
  #view: View;
  #picked: number | undefined;
  #drawRequested = false;

  constructor(name: string, fates: Uint8Array, counts: PageFateCounts) {
    this.#fates = fates;
    this.#rows = Math.ceil(fates.length / ROW_PAGES);
    this.#view = this.#whole();
    this.#canvas = element('canvas', {
      class: 'map',
      tabindex: '0',
      role: 'application',
      'aria-label': `Map of ${name}'s memory. Plus and minus zoom, arrows move, 0 shows all.`,
    });
    this.#where = element('output', { class: 'where' });
    this.#legend = element('div', { class: 'legend', role: 'group', 'aria-label': 'Pick out a fate' });
    this.#makeLegend(counts);
    this.node = element(
      'div',
      {},
      this.#legend,
      this.#canvas,
      element('div', { class: 'row' }, ...this.#buttons(), this.#where),
    );
    this.#listen();
    new ResizeObserver(() => this.#draw()).observe(this.#canvas);
    onThemeChange(() => {
      this.#makeLegend(counts);
      this.#draw();
    });
  }

  #whole(): View {
    return { x: 0, y: 0, width: ROW_PAGES, height: this.#rows };
  }

  #makeLegend(counts: PageFateCounts): void {
    const { fates } = theme();
    const shown = PAGE_FATES.filter((fate) => fate !== 'absent' && counts[fate] > 0);
    this.#legend.replaceChildren(
      ...shown.map((fate) => {
        const index = PAGE_FATES.indexOf(fate);
        const button = element(
          'button',
          {
            type: 'button',
            'aria-pressed': String(this.#picked === index),
            onclick: () => {
              this.#picked = this.#picked === index ? undefined : index;
              for (const other of this.#legend.children) {
                other.setAttribute('aria-pressed', 'false');
              }
              button.setAttribute('aria-pressed', String(this.#picked === index));
              this.#draw();
            },
          },
          element('span', { class: 'swatch', style: `background: ${fates[fate]}` }),
          `${FATE_NAMES[fate]} · ${pagesText(counts[fate as keyof PageFateCounts])}`,
        );
        return button;
      }),
    );
  }

  #buttons(): HTMLElement[] {
    const button = (text: string, label: string, act: () => void): HTMLElement =>
      element('button', { type: 'button', 'aria-label': label, onclick: act }, text);
    return [
      button('+', 'Zoom in', () => this.#zoom(0.5, 0.5, 0.5)),
      button('−', 'Zoom out', () => this.#zoom(2, 0.5, 0.5)),
      button('All', 'Show all of memory', () => {
        this.#view = this.#whole();
        this.#draw();
      }),
    ];
  }

  #listen(): void {
    const canvas = this.#canvas;
    canvas.addEventListener('keydown', (event) => {
      const { width, height } = this.#view;
      const keys: Record<string, () => void> = {
        '+': () => this.#zoom(0.5, 0.5, 0.5),
        '=': () => this.#zoom(0.5, 0.5, 0.5),
        '-': () => this.#zoom(2, 0.5, 0.5),
        '0': () => {
          this.#view = this.#whole();
          this.#draw();
        },
        ArrowLeft: () => this.#move(-width / 8, 0),
        ArrowRight: () => this.#move(width / 8, 0),
        ArrowUp: () => this.#move(0, -height / 8),
        ArrowDown: () => this.#move(0, height / 8),
      };
      const act = keys[event.key];
      if (act !== undefined) {
        event.preventDefault();
        act();
        this.#tell(0.5, 0.5);
      }
    });
    canvas.addEventListener(
      'wheel',
      (event) => {
        // Scrolling the page past the map must not zoom it: only one that was clicked, or with Ctrl.
        if (event.ctrlKey || document.activeElement === canvas) {
          event.preventDefault();
          const { x, y } = this.#place(event);
          this.#zoom(event.deltaY > 0 ? 1.25 : 0.8, x, y);
        }
      },
      { passive: false },
    );
    canvas.addEventListener('pointerdown', (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, this.#place(event));
    });
    canvas.addEventListener('pointermove', (event) => this.#drag(event));
    for (const type of ['pointerup', 'pointercancel'] as const) {
      canvas.addEventListener(type, (event) => this.#pointers.delete(event.pointerId));
    }
  }

  #drag(event: PointerEvent): void {
    const place = this.#place(event);
    const before = this.#pointers.get(event.pointerId);
    this.#tell(place.x, place.y);
    if (before === undefined) {
      return;
    }
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.#pointers.set(event.pointerId, place);
    if (other === undefined) {
      this.#move((before.x - place.x) * this.#view.width, (before.y - place.y) * this.#view.height);
      return;
    }
    const apart = (a: { x: number; y: number }): number => Math.hypot(a.x - other.x, a.y - other.y);
    this.#zoom(
      apart(before) / Math.max(0.01, apart(place)),
      (place.x + other.x) / 2,
      (place.y + other.y) / 2,
    );
  }

  /** Where a pointer is on the map, 0 … 1 each way. */
  #place(event: MouseEvent): { x: number; y: number } {
    const box = this.#canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  }

  #zoom(factor: number, x: number, y: number): void {
    const view = this.#view;
    const width = Math.min(ROW_PAGES, Math.max(16, view.width * factor));
    const height = Math.min(this.#rows, Math.max(8, view.height * factor));
    this.#view = {
      x: view.x + (view.width - width) * x,
      y: view.y + (view.height - height) * y,
      width,
      height,
    };
    this.#move(0, 0);
  }

  #move(columns: number, rows: number): void {
    const view = this.#view;
    view.x = Math.min(ROW_PAGES - view.width, Math.max(0, view.x + columns));
    view.y = Math.min(this.#rows - view.height, Math.max(0, view.y + rows));
    // From afar a finger that moves up and down scrolls the page; close by, it moves the map.
    this.#canvas.style.touchAction = view.height < this.#rows ? 'none' : 'pan-y';
    this.#draw();
  }

  #tell(x: number, y: number): void {
    const { view, fates } = { view: this.#view, fates: this.#fates };
    const row = Math.floor(view.y + y * view.height);
    const pfn = row * ROW_PAGES + Math.floor(view.x + x * view.width);
    const fate: PageFate | undefined = PAGE_FATES[fates[pfn] ?? 0];
    if (fate !== undefined && pfn >= 0 && pfn < fates.length) {
      this.#where.textContent = `page ${pfn} at 0x${(pfn * PAGE_SIZE).toString(16)}: ${FATE_NAMES[fate]}`;
    }
  }

  #draw(): void {
    if (!this.#drawRequested) {
      this.#drawRequested = true;
      requestAnimationFrame(() => {
        this.#drawRequested = false;
        this.#paint();
      });
    }
  }

  #paint(): void {
    const canvas = this.#canvas;
    const scale = Math.min(2, devicePixelRatio);
    const width = Math.max(1, Math.round(canvas.clientWidth * scale));
    const height = Math.max(1, Math.round(canvas.clientHeight * scale));
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext('2d')!;
    const image = context.createImageData(width, height);
    const colours = PAGE_FATES.map((fate) => rgb(theme().fates[fate]));
    const counts = new Uint32Array(PAGE_FATES.length);
    const { view } = this;
    for (let py = 0; py < height; py += 1) {
      const [row, rowEnd] = span(view.y, view.height, py, height, this.#rows);
      for (let px = 0; px < width; px += 1) {
        const [column, columnEnd] = span(view.x, view.width, px, width, ROW_PAGES);
        this.#countInto(counts, row, rowEnd, column, columnEnd);
        const [r, g, b, a] = this.#mix(counts, colours);
        const at = (py * width + px) * 4;
        image.data[at] = r;
        image.data[at + 1] = g;
        image.data[at + 2] = b;
        image.data[at + 3] = a;
      }
    }
    context.putImageData(image, 0, 0);
    canvas.dataset.painted = String(Number(canvas.dataset.painted ?? 0) + 1);
  }

  get view(): Readonly<View> {
    return this.#view;
  }

  #countInto(counts: Uint32Array, row: number, rowEnd: number, column: number, columnEnd: number): void {
    counts.fill(0);
    for (let r = row; r < rowEnd; r += 1) {
      for (let pfn = r * ROW_PAGES + column; pfn < r * ROW_PAGES + columnEnd; pfn += 1) {
        counts[this.#fates[pfn] ?? 0]! += 1;
      }
    }
  }

  #mix(
    counts: Uint32Array,
    colours: readonly (readonly [number, number, number])[],
  ): [number, number, number, number] {
    const picked = this.#picked;
    if (picked !== undefined && counts[picked]! > 0) {
      return [...colours[picked]!, 255];
    }
    let pages = 0;
    const sum: [number, number, number] = [0, 0, 0];
    for (let fate = 0; fate < counts.length; fate += 1) {
      const count = counts[fate]!;
      pages += count;
      for (let channel = 0; channel < 3; channel += 1) {
        sum[channel]! += colours[fate]![channel]! * count;
      }
    }
    const faded = picked === undefined ? 255 : 45;
    return [sum[0] / pages, sum[1] / pages, sum[2] / pages, counts[0] === pages ? 0 : faded];
  }
}

/** Which of `total` cells the point `at` of `points` shows, of a view from `from` on over `length` cells. */
function span(from: number, length: number, at: number, points: number, total: number): [number, number] {
  const first = Math.min(total - 1, Math.floor(from + (at / points) * length));
  return [first, Math.max(first + 1, Math.min(total, Math.floor(from + ((at + 1) / points) * length)))];
}
