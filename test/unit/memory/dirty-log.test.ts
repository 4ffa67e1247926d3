import { describe, expect, it } from 'vitest';
import { DirtyLog, DRAIN_SLICE_WORDS } from '../../../src/memory/dirty-log.js';
import { PageBitmap } from '../../../src/memory/page-bitmap.js';
import { atomicMapper, type SharedWords } from '../../../src/memory/shared-words.js';

function logOf(pageCount: number): DirtyLog {
  return new DirtyLog(PageBitmap.allocate(atomicMapper, pageCount));
}

/** Counts how often each page was handed over. */
class Drained {
  readonly times: Map<number, number> = new Map();

  addDirty(wordIndex: number, bits: number): void {
    for (let bit = 0; bit < 32; bit += 1) {
      if (((bits >>> bit) & 1) === 1) {
        const pfn = wordIndex * 32 + bit;
        this.times.set(pfn, (this.times.get(pfn) ?? 0) + 1);
      }
    }
  }

  get pages(): number[] {
    return [...this.times.keys()].sort((a, b) => a - b);
  }
}

/** A log whose accesses to shared words are written down, and can be met half way. */
function watchedLog(pageCount: number, beforeAccess: (operation: string, index: number) => void): DirtyLog {
  const { words } = PageBitmap.allocate(atomicMapper, pageCount);
  const watched = new Proxy(words, {
    get(target, operation: keyof SharedWords) {
      const member = target[operation];
      if (typeof member !== 'function') {
        return member;
      }
      return (index: number, ...rest: number[]) => {
        beforeAccess(operation, index);
        return (member as (...args: number[]) => unknown).call(target, index, ...rest);
      };
    },
  });
  return new DirtyLog(new PageBitmap(watched, pageCount));
}

describe('DirtyLog', () => {
  it('I1 marks with one atomic or, whether the page was marked before or not', () => {
    const accesses: string[] = [];
    const log = watchedLog(128, (operation, index) => accesses.push(`${operation} ${index}`));
    log.mark(40);
    log.mark(40);
    log.markRange(60, 10);
    log.markRange(60, 10);
    expect(accesses).toEqual(['or 1', 'or 1', 'or 1', 'or 2', 'or 1', 'or 2']);
  });

  it('takes a word with one exchange, so that a mark comes before it or after it', () => {
    const accesses: string[] = [];
    const log = watchedLog(96, (operation, index) => accesses.push(`${operation} ${index}`));
    log.mark(33);
    accesses.length = 0;
    log.drainSlice(new Drained());
    expect(accesses).toEqual(['load 0', 'load 1', 'exchange 1', 'load 2']);
  });

  it('loses no mark that lands anywhere in a drain', () => {
    for (let position = 0; position < 4; position += 1) {
      let countdown = Number.POSITIVE_INFINITY;
      const log = watchedLog(96, () => {
        countdown -= 1;
        if (countdown === -1) {
          log.mark(34);
          log.mark(80);
        }
      });
      const drained = new Drained();
      log.mark(33);
      countdown = position;
      expect(log.drainSlice(drained)).toBe(true);
      expect(log.drainSlice(drained)).toBe(true);
      expect([...drained.times]).toEqual(
        expect.arrayContaining([
          [33, 1],
          [34, 1],
          [80, 1],
        ]),
      );
      expect(drained.pages).toEqual([33, 34, 80]);
    }
  });

  it('hands every marked page over once, and is empty then', () => {
    const log = logOf(1000);
    const marked = [0, 31, 32, 500, 501, 999];
    for (const pfn of [...marked, ...marked]) {
      log.mark(pfn);
    }
    log.markRange(600, 100);
    const drained = new Drained();
    expect(log.drainSlice(drained)).toBe(true);
    expect(drained.pages).toEqual([
      ...marked.slice(0, 5),
      ...Array.from({ length: 100 }, (_, i) => 600 + i),
      999,
    ]);
    expect([...drained.times.values()].every((times) => times === 1)).toBe(true);
    expect(log.bitmap.count()).toBe(0);
    const again = new Drained();
    log.drainSlice(again);
    expect(again.pages).toEqual([]);
  });

  it('hands over the bits of a word’s sign', () => {
    const log = logOf(64);
    log.markRange(0, 64);
    const drained = new Drained();
    log.drainSlice(drained);
    expect(drained.times.size).toBe(64);
  });

  it('gives a page that was marked again after it was taken to the next pass', () => {
    const log = logOf(64);
    log.mark(5);
    const drained = new Drained();
    log.drainSlice(drained);
    log.mark(5);
    log.drainSlice(drained);
    expect([...drained.times]).toEqual([[5, 2]]);
  });

  it.each([1, 2, 3, 4, 7, 100])('passes over the log in slices of %d words', (sliceWords) => {
    const log = logOf(7 * 32 - 5);
    log.markRange(0, 7 * 32 - 5);
    const drained = new Drained();
    let slices = 1;
    while (!log.drainSlice(drained, sliceWords)) {
      slices += 1;
      expect(drained.times.size).toBe((slices - 1) * sliceWords * 32);
    }
    expect(slices).toBe(Math.ceil(7 / sliceWords));
    expect(drained.times.size).toBe(7 * 32 - 5);
  });

  it('begins again at the first word after a whole pass', () => {
    const log = logOf(4 * 32);
    while (!log.drainSlice(new Drained(), 3)) {
      // To the end of the pass.
    }
    log.mark(1);
    const drained = new Drained();
    expect(log.drainSlice(drained, 3)).toBe(false);
    expect(drained.pages).toEqual([1]);
  });

  it('begins again at the first word when a pass was cut short', () => {
    const log = logOf(4 * 32);
    const drained = new Drained();
    expect(log.drainSlice(drained, 2)).toBe(false);
    log.mark(1);
    log.restartDrain();
    expect(log.drainSlice(drained, 2)).toBe(false);
    expect(drained.pages).toEqual([1]);
    expect(log.drainSlice(drained, 2)).toBe(true);
  });

  it('looks at 1 GiB of guest memory in a slice', () => {
    expect(DRAIN_SLICE_WORDS * 32 * 4096).toBe(2 ** 30);
  });
});
