import { describe, expect, it } from 'vitest';
import { PageContent } from '../../../src/guest/content.js';
import { GuestRam } from '../../../src/guest/guest-ram.js';
import { Ledger } from '../../../src/guest/ledger.js';
import { DirtyLog } from '../../../src/memory/dirty-log.js';
import { PrivateGuestMemory } from '../../../src/memory/guest-memory.js';
import { PAGE_SIZE } from '../../../src/memory/page.js';
import { bitmapWords, PageBitmap } from '../../../src/memory/page-bitmap.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper, type SharedWords } from '../../../src/memory/shared-words.js';
import { blocksOfPages } from './small-guest.js';

const PAGES = 8;
const LEDGER_GPA = 6 * PAGE_SIZE;
const BITMAP_GPA = 7 * PAGE_SIZE;

/** RAM whose dirty log calls `atMark` at each of its atomic operations, before it is done. */
function watchedRam(atMark: (memory: PrivateGuestMemory) => void): GuestRam {
  const memory = new PrivateGuestMemory(new RamLayout(blocksOfPages([0, PAGES])));
  const words = atomicMapper.words(new ArrayBuffer(bitmapWords(PAGES) * 4), 0, bitmapWords(PAGES));
  const watched: SharedWords = Object.assign(Object.create(words) as SharedWords, {
    length: words.length,
    load: (index: number) => words.load(index),
    exchange: (index: number, value: number) => words.exchange(index, value),
    or: (index: number, bits: number) => {
      atMark(memory);
      return words.or(index, bits);
    },
  });
  return new GuestRam(memory, atomicMapper, new DirtyLog(new PageBitmap(watched, PAGES)));
}

describe('I1 write, then mark', () => {
  it('I1 a page’s bytes are all there when its mark is set', () => {
    const seen: boolean[] = [];
    const content = new PageContent(1);
    const ram = watchedRam((memory) => seen.push(content.matches(memory.pages(3, 1), 3, 9)));
    new Ledger(ram, content, LEDGER_GPA, PAGES, undefined).write(3, 9);
    expect(seen[0]).toBe(true);
  });

  it('I1 a line of the ledger is there when its page is marked', () => {
    const seen: number[] = [];
    const ram = watchedRam((memory) => seen.push(memory.pages(6, 1)[3 * 4]!));
    new Ledger(ram, new PageContent(1), LEDGER_GPA, PAGES, undefined).note(3, 9);
    expect(seen).toEqual([9]);
  });

  it.each([
    ['set', (bitmap: PageBitmap) => bitmap.set(0), 1],
    ['setRange', (bitmap: PageBitmap) => bitmap.setRange(0, 3), 0b111],
    ['clear', (bitmap: PageBitmap) => bitmap.clear(1), 0b1101],
    ['clearRange', (bitmap: PageBitmap) => bitmap.clearRange(0, 2), 0b1100],
  ] as const)(
    'I1 a bitmap of the guest’s (%s) holds its new word when its page is marked',
    (_, change, word) => {
      const seen: number[] = [];
      const ram = watchedRam((memory) => seen.push(memory.pages(7, 1)[0]!));
      const bitmap = ram.bitmap(BITMAP_GPA, PAGES);
      if (word > 0b111) {
        bitmap.setRange(0, 4);
      }
      seen.length = 0;
      change(bitmap);
      expect(seen).toEqual([word]);
    },
  );

  it('I1 a mark is set whether or not it is set already', () => {
    let marks = 0;
    const ram = watchedRam(() => {
      marks += 1;
    });
    ram.wrote(0, 1);
    ram.wrote(0, 1);
    expect(marks).toBe(2);
  });
});
