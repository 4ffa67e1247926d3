/**
 * The two threads of the dirty log's litmus test (test/integration/litmus.test.ts). Plain JavaScript, since Node 20
 * can't load TypeScript as a worker; the log, the bitmap and the memory are the built ones.
 *
 * ```
 *   writer, for n = 1, 2, …                          drainer, again and again
 *   page[…] = n       plain stores                   upTo = load(WRITTEN)
 *   or(mark, bit)     in DirtyLog.mark               bits = exchange(mark, 0)    in DirtyLog.drainSlice
 *   store(WRITTEN, n) now and then                   copy[…] = page[…]           plain loads
 *                                                    each page of copy ≥ its last write up to `upTo`
 * ```
 *
 * The last line is what I1 promises: a write whose mark was made before a drain began is in the copy when the drain is
 * over, since either this drain has taken its mark or an earlier one has, and read the page after it. So a loss is seen
 * as long as no later write to the page has covered it up; and after the last drain the copy is equal to memory.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { DirtyLog } from '../../dist/src/memory/dirty-log.js';
import { SharedGuestMemory } from '../../dist/src/memory/guest-memory.js';
import { PageBitmap } from '../../dist/src/memory/page-bitmap.js';
import { RamLayout } from '../../dist/src/memory/ram-layout.js';
import { atomicMapper } from '../../dist/src/memory/shared-words.js';

const { role, blocks, buffers, logBuffer, control, words, writes, skipIfSet } = workerData;
const layout = new RamLayout(blocks);
const memory = new SharedGuestMemory(layout, buffers);
const log = new DirtyLog(
  new PageBitmap(atomicMapper.words(logBuffer, 0, logBuffer.byteLength / 4), layout.pfnSpan),
);
const shared = atomicMapper.words(control, 0, control.byteLength / 4);
const ram = new Uint32Array(memory.segments[0].bytes.buffer);

const PAGES = layout.pageCount; // a power of two
const PAGE_WORDS = 1024;
/** The words of a page that are written, each in a cache line of its own: from the first to the last. */
const PLACES = [0, 341, 682, 1023];
/** Write `n` goes to page `n * STRIDE % PAGES`; neighbours in time are none in the log's word. */
const STRIDE = 13;
/** The writer says how far it is after so many writes: the fewer fences, the more the store buffer may hold. */
const TELL_EVERY = 8;
/** How far the writer may be ahead of the drainer, so that neither has its time to itself on a busy machine. */
const WINDOW = 512;
/** Looks at the other's word before it sleeps until that changes. */
const SPINS = 2000;

/** Both are there before the first write. */
function meet() {
  shared.add(words.PRESENT, 1);
  shared.notify(words.PRESENT);
  shared.wait(words.PRESENT, 1, Number.POSITIVE_INFINITY);
}

/** "Skip the mark if it is set already": what DirtyLog must not do (I1). */
function markUnlessSet(pfn) {
  if (!log.bitmap.test(pfn)) {
    log.mark(pfn);
  }
}

function write() {
  for (let n = 1; n <= writes; n += 1) {
    const pfn = (n * STRIDE) % PAGES;
    const at = pfn * PAGE_WORDS;
    for (let i = 0; i < PLACES.length; i += 1) {
      ram[at + PLACES[i]] = n;
    }
    if (skipIfSet) {
      markUnlessSet(pfn);
    } else {
      log.mark(pfn);
    }
    if (n % TELL_EVERY === 0 || n === writes) {
      shared.store(words.WRITTEN, n); // pairs with the load in drain()
    }
    if (n % (WINDOW / 4) === 0) {
      let spins = 0;
      for (let seen = shared.load(words.SEEN); n - seen > WINDOW; seen = shared.load(words.SEEN)) {
        spins += 1;
        if (spins > SPINS) {
          shared.wait(words.SEEN, seen, Number.POSITIVE_INFINITY);
        }
      }
    }
  }
  return {};
}

function drain() {
  const places = PLACES.length;
  const copy = new Uint32Array(PAGES * places);
  const copyPage = (pfn) => {
    for (let i = 0; i < places; i += 1) {
      copy[pfn * places + i] = ram[pfn * PAGE_WORDS + PLACES[i]];
    }
  };
  /** For each page, the last of writes 1 … PAGES that goes there; the others follow every PAGES. */
  const firstTo = Array.from({ length: PAGES }, () => 0);
  for (let n = 1; n <= PAGES; n += 1) {
    firstTo[(n * STRIDE) % PAGES] = n;
  }
  const told = {
    drains: 0,
    drainsOfSomething: 0,
    pagesDrained: 0,
    writesSeen: 0,
    missed: 0,
    firstMissed: undefined,
  };
  const sink = {
    addDirty(word, bits) {
      for (let left = bits; left !== 0; left &= left - 1) {
        copyPage(word * 32 + 31 - Math.clz32(left & -left));
        told.pagesDrained += 1;
      }
    },
  };
  const checkAll = (upTo) => {
    for (let pfn = 0; pfn < PAGES; pfn += 1) {
      const first = firstTo[pfn];
      const due = upTo < first ? 0 : upTo - ((upTo - first) % PAGES);
      for (let i = 0; i < places; i += 1) {
        if (copy[pfn * places + i] < due) {
          told.missed += 1;
          told.firstMissed ??= { write: due, pfn, place: i, copied: copy[pfn * places + i] };
          copyPage(pfn); // what comes after it is looked at for itself
          break;
        }
      }
    }
  };
  let toldSeen = 0;
  for (let upTo = 0; upTo < writes; ) {
    const before = upTo;
    const drained = told.pagesDrained;
    upTo = shared.load(words.WRITTEN);
    while (!log.drainSlice(sink)) {}
    checkAll(upTo);
    told.drains += 1;
    told.drainsOfSomething += told.pagesDrained > drained ? 1 : 0;
    if (upTo - toldSeen >= WINDOW / 4) {
      toldSeen = upTo;
      shared.store(words.SEEN, upTo); // pairs with the wait in write()
      shared.notify(words.SEEN);
    }
    told.writesSeen += Math.min(PAGES, upTo - before); // those that were the last to their page
  }
  const differs = copy.findIndex(
    (value, i) => value !== ram[Math.floor(i / places) * PAGE_WORDS + PLACES[i % places]],
  );
  return { ...told, equalAtTheEnd: differs === -1 };
}

meet();
parentPort.postMessage(role === 'writer' ? write() : drain());
