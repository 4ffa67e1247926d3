import { DirtyLog, type DirtySink } from '../../src/memory/dirty-log.js';
import { gpaOf } from '../../src/memory/page.js';
import { PageBitmap } from '../../src/memory/page-bitmap.js';
import { type Activity, type Actor, Gate, noActivity } from './gate.js';
import { Memento } from './memento.js';
import { Violation, type World } from './search.js';
import { type MemoryModel, StoreBuffer, WEAK_CONSTANTS, WeakMemory, weakMapper } from './weak-memory.js';

/** How a written page gets into the log, and how it is taken out of it again. */
export interface MarkRules {
  /** Writes the two words of a page, and marks it in the writer's log. */
  write(page: PageWords, version: number, log: DirtyLog, pfn: number): void;
  /** Drains the drainer's log, and reads each page that was in it. */
  drain(log: DirtyLog, sink: DirtySink, read: () => void): void;
}

/** The words of a page that a write changes and a read looks at: it can be torn between them. */
export type PageWords = Uint32Array;

/** As the engine does it: a write is marked when it is done (I1), a page is read when its bit is taken (I5). */
export const ENGINE_RULES: MarkRules = {
  write: (page, version, log, pfn) => {
    page[0] = version;
    page[1] = version;
    log.mark(pfn);
  },
  drain: (log, sink, read) => {
    log.drainSlice(sink);
    read();
  },
};

export interface MarkBounds {
  readonly model: MemoryModel;
  readonly pages: number;
  /** Writes in all, to the pages in turn: first all pages once, then again. */
  readonly writes: number;
  readonly rules: MarkRules;
}

const WRITER_STEPS = 0;
const DRAINER_STEPS = 1;
const STORE_LANDS = 64;

const WORDS_OF_PAGE = 2;

class Writer {
  written = 0;
  done = false;
}

/** Takes bits, and reads the pages that they stand for: the sender, as far as the log goes. */
class Drainer implements DirtySink {
  /** Bits that were taken and whose pages are still to be read. */
  taken = 0;
  /** What was read last of each word. */
  readonly copy: number[];
  working = false;

  constructor(pages: number) {
    this.copy = new Array<number>(pages * WORDS_OF_PAGE).fill(0);
  }

  addDirty(_wordIndex: number, bits: number): void {
    this.taken |= bits;
  }
}

class MarkState {
  readonly writer = new Writer();
  readonly drainer: Drainer;
  readonly writerActivity: Activity = noActivity();
  readonly drainerActivity: Activity = noActivity();
  readonly writerStores = new StoreBuffer();
  readonly drainerStores = new StoreBuffer();

  constructor(pages: number) {
    this.drainer = new Drainer(pages);
  }
}

/**
 * One thread writes pages and marks them, another drains the log and reads the pages that it finds there:
 *
 * ```
 *   writer    word 0 = v; word 1 = v      (store buffer)  ──▶  RAM             mark ──▶ dirty log
 *   drainer   dirty log ──▶ taken bits;   RAM ──▶ copy
 * ```
 *
 * It drains whenever a bit is set, so when nothing can happen any more the log is empty; then its copy has to be what
 * the RAM holds, or a write was lost (I1).
 */
export class MarkWorld implements World {
  readonly memento: Memento;
  readonly columns: readonly string[] = ['RAM', 'on its way', 'log', 'copy'];
  readonly #bounds: MarkBounds;
  readonly #gate = new Gate();
  readonly #ram: WeakMemory;
  readonly #words: Uint32Array;
  readonly #logWord: Int32Array;
  readonly #state: MarkState;
  readonly #writer: Actor;
  readonly #drainer: Actor;
  readonly #pagesToWrite: readonly PageWords[];
  readonly #pagesToRead: readonly PageWords[];
  readonly #writerLog: DirtyLog;
  readonly #drainerLog: DirtyLog;

  constructor(bounds: MarkBounds) {
    const { model, pages } = bounds;
    this.#bounds = bounds;
    const buffer = new ArrayBuffer(gpaOf(pages));
    const logBuffer = new ArrayBuffer(4);
    this.#ram = new WeakMemory(model, buffer);
    this.#words = new Uint32Array(buffer);
    this.#logWord = new Int32Array(logBuffer);
    this.#state = new MarkState(pages);
    const { writer, drainer, writerActivity, drainerActivity, writerStores, drainerStores } = this.#state;
    const sideOf = (stores: StoreBuffer) => {
      const map = weakMapper({
        gate: this.#gate,
        memory: this.#ram,
        buffer: stores,
        everyBuffer: [],
        plainHalfWords: false,
      });
      return {
        log: new DirtyLog(new PageBitmap(map.words(logBuffer, 0, 1), pages)),
        pages: Array.from({ length: pages }, (_, pfn) => map.plain32(buffer, gpaOf(pfn), WORDS_OF_PAGE)),
      };
    };
    const ofWriter = sideOf(writerStores);
    const ofDrainer = sideOf(drainerStores);
    this.#writerLog = ofWriter.log;
    this.#drainerLog = ofDrainer.log;
    this.#pagesToWrite = ofWriter.pages;
    this.#pagesToRead = ofDrainer.pages;
    const foreign = [buffer, logBuffer];
    this.memento = new Memento(
      { state: this.#state, log: this.#drainerLog },
      {
        constantClasses: WEAK_CONSTANTS,
        // Every store to these pages is marked and is the writer's own: the copy tells what was lost, not the ghost.
        notIdentity: ['StoreBuffer.unmarked'],
        memory: [
          { words: this.#logWord },
          ...Array.from({ length: pages }, (_, pfn) => ({
            words: new Int32Array(buffer, gpaOf(pfn), WORDS_OF_PAGE),
          })),
        ],
      },
    );
    const own = (root: object): Memento =>
      new Memento(root, { constantClasses: WEAK_CONSTANTS, foreign, memory: [] });
    this.#writer = { name: 'writer', activity: writerActivity, own: own(writer) };
    this.#drainer = {
      name: 'drainer',
      activity: drainerActivity,
      own: own({ drainer, log: this.#drainerLog }),
    };
  }

  actionsInto(out: number[]): void {
    const { writer, drainer, writerStores } = this.#state;
    if (!writer.done) {
      out.push(WRITER_STEPS);
    }
    if (drainer.working || this.#logWord[0] !== 0) {
      out.push(DRAINER_STEPS);
    }
    this.#ram.landableInto(out, writerStores, STORE_LANDS);
  }

  perform(action: number): void {
    const { drainer, writerStores } = this.#state;
    if (action === WRITER_STEPS) {
      this.#gate.advance(this.#writer, this.#write);
    } else if (action === DRAINER_STEPS) {
      drainer.working = true;
      this.#gate.advance(this.#drainer, this.#drain);
    } else {
      this.#ram.landOne(writerStores, action - STORE_LANDS);
    }
  }

  check(): void {}

  checkEnd(): void {
    const { writer, drainer } = this.#state;
    for (let pfn = 0; pfn < this.#bounds.pages; pfn += 1) {
      const held = this.#held(pfn);
      const copy = drainer.copy.slice(pfn * WORDS_OF_PAGE, (pfn + 1) * WORDS_OF_PAGE);
      if (copy.join() !== held.join()) {
        throw new Violation(
          'I1',
          `after ${writer.written} writes page ${pfn} holds ${held.join()}, and ${copy.join()} was read last`,
        );
      }
    }
  }

  readonly #write = (): void => {
    const { writer } = this.#state;
    const { pages, writes, rules } = this.#bounds;
    const pfn = writer.written % pages;
    rules.write(this.#pagesToWrite[pfn]!, writer.written + 1, this.#writerLog, pfn);
    writer.written += 1;
    writer.done = writer.written === writes;
  };

  readonly #drain = (): void => {
    const { drainer } = this.#state;
    this.#bounds.rules.drain(this.#drainerLog, drainer, () => {
      for (let pfn = 0; pfn < this.#bounds.pages; pfn += 1) {
        if (((drainer.taken >>> pfn) & 1) === 1) {
          for (let i = 0; i < WORDS_OF_PAGE; i += 1) {
            drainer.copy[pfn * WORDS_OF_PAGE + i] = this.#pagesToRead[pfn]![i]!;
          }
        }
      }
    });
    drainer.taken = 0;
    drainer.working = false;
  };

  #held(pfn: number): number[] {
    return Array.from({ length: WORDS_OF_PAGE }, (_, i) => this.#words[gpaOf(pfn) / 4 + i]!);
  }

  describe(action: number): { who: string; what: string } {
    const { pending } = this.#state.writerStores;
    if (action >= STORE_LANDS) {
      const at = (action - STORE_LANDS) * 2;
      return {
        who: '',
        what: `a store of the writer lands: ${placeText(pending[at]! >>> 2)} = ${pending[at + 1]}`,
      };
    }
    const { last } = this.#ram;
    const here = this.memento.save();
    this.perform(action);
    this.memento.restore(here);
    const who = action === WRITER_STEPS ? 'writer' : 'drainer';
    switch (last.does) {
      case 'marks':
        return { who, what: `marks page ${31 - Math.clz32(last.value)}` };
      case 'takes':
        return { who, what: 'takes the bits' };
      case 'stores':
        return { who, what: `stores ${placeText(last.at)} = ${last.value}` };
      default:
        return { who, what: `loads ${last.at < 0 ? 'the log' : placeText(last.at)} → ${last.value}` };
    }
  }

  cells(): string[] {
    const { drainer, writerStores } = this.#state;
    const pending = writerStores.pending.map((word, i) => (i % 2 === 0 ? placeText(word >>> 2) : word));
    return [
      Array.from({ length: this.#bounds.pages }, (_, pfn) => this.#held(pfn).join()).join(' '),
      pending.join(' ') || '–',
      this.#logWord[0]!.toString(2),
      drainer.copy.join(),
    ];
  }
}

function placeText(address: number): string {
  return `page ${address >>> 12}[${(address & 4095) / 4}]`;
}
