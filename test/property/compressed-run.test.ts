import { deflateRawSync } from 'node:zlib';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { isLacunaError } from '../../src/errors.js';
import { PAGE_SIZE } from '../../src/memory/page.js';
import { deflateRunInto, inflateRun, longestCompressed } from '../../src/transport/network/compressed-run.js';
import { CompressionPolicy } from '../../src/transport/network/compression-policy.js';
import { effort } from '../support/long.js';
import { ModelledSender } from '../support/modelled-compression.js';

/** For each property. */
const TIME_LIMIT_MS = 700;

/** A page of zeroes, of few letters, or of noise. */
const page = fc
  .tuple(fc.constantFrom(0, 5, 255), fc.integer({ min: 1, max: 2 ** 31 - 1 }))
  .map(([mask, seed]) => {
    let state = seed;
    return Uint8Array.from({ length: PAGE_SIZE }, () => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
      return (state >>> 24) & mask;
    });
  });
const run = fc.array(page, { minLength: 1, maxLength: 40, size: 'max' }).map((pages) => Buffer.concat(pages));

it('a run is compressed to at most 7/8 and comes out as it went in, or goes raw', () => {
  fc.assert(
    fc.property(run, (pages) => {
      const out = new Uint8Array(longestCompressed(pages.length));
      const length = deflateRunInto(pages, out);
      if (length > 0) {
        const into = new Uint8Array(pages.length);
        inflateRun(out.subarray(0, length), into, pages.length / PAGE_SIZE);
        expect(Buffer.compare(into, pages)).toBe(0);
      } else if (pages.length < 32 * PAGE_SIZE) {
        // Of longer ones only samples were looked at, perhaps.
        expect(deflateRawSync(pages, { level: 1 }).length).toBeGreaterThan((pages.length * 7) / 8);
      }
    }),
    effort(100, TIME_LIMIT_MS),
  );
});

it('whatever a peer makes of a payload, it is refused by name or gives just the pages that it says', () => {
  const change = fc.record({
    at: fc.nat(),
    byte: fc.nat(255),
    kind: fc.constantFrom('set', 'cut', 'insert'),
  });
  fc.assert(
    fc.property(
      run,
      fc.array(change, { maxLength: 4 }),
      fc.integer({ min: 1, max: 41 }),
      (pages, changes, claimed) => {
        let payload: Uint8Array = deflateRawSync(pages, { level: 1 });
        for (const { at, byte, kind } of changes) {
          const place = at % payload.length;
          const rest = kind === 'insert' ? place : place + 1;
          payload =
            kind === 'cut'
              ? payload.slice(0, Math.max(1, place))
              : Buffer.concat([payload.subarray(0, place), Uint8Array.of(byte), payload.subarray(rest)]);
        }
        const into = new Uint8Array(claimed * PAGE_SIZE).fill(0xa5);
        try {
          inflateRun(payload, into, claimed);
          if (changes.length === 0) {
            expect(Buffer.compare(into, pages)).toBe(0);
          }
        } catch (thrown) {
          expect(isLacunaError(thrown, 'PROTOCOL_VIOLATION')).toBe(true);
          expect(changes.length > 0 || claimed * PAGE_SIZE !== pages.length).toBe(true);
          expect(into.every((byte) => byte === 0xa5)).toBe(true);
        }
      },
    ),
    effort(300, TIME_LIMIT_MS),
  );
});

/** From 1 MB/s to 4 GB/s, each order of magnitude as likely as the others; in bytes a ms. */
const rate = fc.double({ min: 3, max: 6.6, noNaN: true }).map((exponent) => 10 ** exponent);

it('whatever link, pool and contents are, "auto" moves no less than raw would, and more where it stays on', () => {
  fc.assert(
    fc.property(
      rate,
      fc.integer({ min: 5000, max: 200_000 }),
      fc.double({ min: 0.05, max: 1, noNaN: true }),
      fc.integer({ min: 1, max: 4 }),
      (linkBytesPerMs, threadBytesPerMs, ratio, threads) => {
        const sender = new ModelledSender('auto', threads);
        sender.run(10_000, { linkBytesPerMs, threadBytesPerMs, ratio });
        // The model's source gives two runs a step at the most.
        const raw = Math.min(linkBytesPerMs, 2_000_000) * 10_000;
        expect(sender.movedBytes).toBeGreaterThan(0.97 * raw - 8 * 2 ** 20); // but for a write that is under way
        expect(sender.policy.switches).toBeLessThanOrEqual(1);
        const gain = (threads * threadBytesPerMs * (1 - ratio)) / linkBytesPerMs;
        if (ratio < 0.8 && gain > 0.5) {
          expect(sender.policy.active).toBe(true);
          expect(sender.movedBytes).toBeGreaterThan(1.1 * raw);
        }
        if (gain < 0.05) {
          expect(sender.policy.active).toBe(false);
        }
      },
    ),
    effort(60, 2 * TIME_LIMIT_MS),
  );
});

it('the same inputs give the same choices', () => {
  const step = fc.record({
    ms: fc.integer({ min: 0, max: 50 }),
    taken: fc.nat(2 ** 22),
    waiting: fc.nat(2 ** 22),
    room: fc.boolean(),
    after: fc.nat(2 ** 20),
    busyMs: fc.integer({ min: 0, max: 40 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 100, size: 'max' }), (steps) => {
      const choices = (): string[] => {
        const policy = new CompressionPolicy('auto', 1);
        let now = 0;
        let taken = 0;
        return steps.map(({ ms, taken: more, waiting, room, after, busyMs }) => {
          now += ms;
          taken += more;
          policy.link(taken, waiting, now);
          const choice = policy.choose(now, room, waiting);
          if (choice === 'compress') {
            expect(room).toBe(true);
            policy.taken(2 ** 20, now);
            policy.compressed(2 ** 20, after);
            policy.worked(busyMs);
          } else if (choice === 'raw') {
            policy.passed();
          }
          return choice;
        });
      };
      expect(choices()).toEqual(choices());
    }),
    effort(100, TIME_LIMIT_MS),
  );
});
