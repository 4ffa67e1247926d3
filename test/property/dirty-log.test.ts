import fc from 'fast-check';
import { expect, it } from 'vitest';
import { DirtyLog, DRAIN_SLICE_WORDS } from '../../src/memory/dirty-log.js';
import { PageBitmap } from '../../src/memory/page-bitmap.js';
import { atomicMapper, type SharedWords } from '../../src/memory/shared-words.js';
import { effort } from '../support/long.js';
import { NaiveDirtyLog } from '../support/naive-dirty-log.js';
import { pagesIn } from '../unit/guest/small-guest.js';

const TIME_LIMIT_MS = 1000;

/** A mark that another thread makes between two of the drain's accesses: before its `access`-th. */
interface MeanwhileMark {
  readonly access: number;
  readonly pfn: number;
}

/** A log and its twin; what the log hands over is compared word by word, at the moment at which it is handed over. */
class Play {
  readonly log: DirtyLog;
  readonly twin: NaiveDirtyLog;
  readonly pageCount: number;
  #meanwhile: readonly MeanwhileMark[] = [];
  #accesses = 0;
  #handed: number[] = [];

  constructor(pageCount: number) {
    this.pageCount = pageCount;
    this.twin = new NaiveDirtyLog(pageCount);
    const { words } = PageBitmap.allocate(atomicMapper, pageCount);
    const meanwhile = (): void => {
      const due = this.#meanwhile.filter(({ access }) => access === this.#accesses);
      this.#accesses += 1;
      for (const { pfn } of due) {
        words.or(pfn >>> 5, 1 << (pfn & 31)); // as the other thread's DirtyLog does
        this.twin.markRange(pfn, 1);
      }
    };
    const watched = new Proxy(words, {
      get(target, operation: keyof SharedWords) {
        const member = target[operation];
        return typeof member !== 'function'
          ? member
          : (...args: number[]) => {
              meanwhile();
              return (member as (...args: number[]) => unknown).apply(target, args);
            };
      },
    });
    this.log = new DirtyLog(new PageBitmap(watched, pageCount));
  }

  drain(sliceWords: number, meanwhile: readonly MeanwhileMark[]): boolean {
    const { words, done } = this.twin.slice(sliceWords);
    const owed = words.flatMap((word) => this.twin.inWord(word));
    this.#meanwhile = meanwhile;
    this.#accesses = 0;
    this.#handed = [];
    const answer = this.log.drainSlice({ addDirty: (word, bits) => this.#take(word, bits) }, sliceWords);
    this.#meanwhile = [];
    expect(answer).toBe(done);
    // All that was marked before the slice began and lies in its words, once.
    expect(this.#handed.filter((pfn) => owed.includes(pfn))).toEqual(owed);
    expect(this.#handed.every((pfn) => words.includes(pfn >>> 5))).toBe(true);
    return answer;
  }

  /** Whatever is not in the log any more must have been handed over: no mark is lost. */
  check(): void {
    expect(pagesIn(this.log.bitmap)).toEqual([...this.twin.pages].sort((a, b) => a - b));
  }

  #take(word: number, bits: number): void {
    const pages = Array.from({ length: 32 }, (_, bit) => bit)
      .filter((bit) => ((bits >>> bit) & 1) === 1)
      .map((bit) => word * 32 + bit);
    // Neither more than was marked, nor less: the marks that came in time for the exchange are taken with it.
    expect(pages).toEqual(this.twin.inWord(word));
    for (const pfn of pages) {
      this.twin.pages.delete(pfn);
    }
    this.#handed.push(...pages);
  }
}

type Action = readonly [name: string, act: (play: Play) => void];

function actions(pageCount: number): fc.Arbitrary<Action> {
  const pages = fc.nat(pageCount - 1);
  const marks = fc.array(fc.record({ access: fc.nat(16), pfn: pages }), { maxLength: 8 });
  const words = Math.ceil(pageCount / 32);
  const slices = fc.oneof(
    fc.integer({ min: 1, max: 4 }),
    fc.integer({ min: 1, max: words + 1 }),
    fc.constant(DRAIN_SLICE_WORDS),
  );
  return fc.oneof(
    {
      weight: 3,
      arbitrary: pages.map(
        (pfn): Action => [
          `mark ${pfn}`,
          ({ log, twin }) => {
            log.mark(pfn);
            twin.markRange(pfn, 1);
          },
        ],
      ),
    },
    fc.tuple(pages, fc.nat(100)).map(([pfn, n]): Action => {
      const count = Math.min(n, pageCount - pfn);
      return [
        `markRange ${pfn} ${count}`,
        ({ log, twin }) => {
          log.markRange(pfn, count);
          twin.markRange(pfn, count);
        },
      ];
    }),
    {
      weight: 2,
      arbitrary: fc
        .tuple(
          fc.nat(pageCount * 4096 - 1),
          fc.oneof(fc.integer({ min: 1, max: 20_000 }), fc.constantFrom(1, 4095, 4096, 4097)),
        )
        .map(([at, length]): Action => {
          // Often from a page's first byte, or to its last.
          const gpa = at % 3 === 0 ? at - (at % 4096) : at;
          const bytes = Math.min(length, pageCount * 4096 - gpa);
          return [
            `markBytes ${gpa} ${bytes}`,
            ({ log, twin }) => {
              log.markBytes(gpa, bytes);
              twin.markBytes(gpa, bytes);
            },
          ];
        }),
    },
    {
      weight: 4,
      arbitrary: fc
        .tuple(slices, marks)
        .map(
          ([slice, meanwhile]): Action => [
            `drain ${slice} words, meanwhile ${fc.stringify(meanwhile)}`,
            (play) => play.drain(slice, meanwhile),
          ],
        ),
    },
    fc.constant<Action>([
      'restartDrain',
      ({ log, twin }) => {
        log.restartDrain();
        twin.restartDrain();
      },
    ]),
  );
}

const programs = fc
  .integer({ min: 1, max: 300 })
  .chain((pageCount) =>
    fc.tuple(fc.constant(pageCount), fc.array(actions(pageCount), { maxLength: 50, size: 'max' })),
  );

it('I1 loses no mark and makes none up, in slices of any size, whenever a mark lands', () => {
  fc.assert(
    fc.property(programs, ([pageCount, program]) => {
      const play = new Play(pageCount);
      for (const [, act] of program) {
        act(play);
        play.check();
      }
      // The rest of this pass, and one whole pass: then nothing is left.
      while (!play.drain(3, [])) {}
      while (!play.drain(DRAIN_SLICE_WORDS, [])) {}
      play.check();
      expect(play.twin.pages.size).toBe(0);
      expect(play.log.bitmap.count()).toBe(0);
    }),
    effort(600, TIME_LIMIT_MS),
  );
});
