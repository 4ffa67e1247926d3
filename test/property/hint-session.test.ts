import fc from 'fast-check';
import { expect, it } from 'vitest';
import { HintSession, type HintSink, nextCommandId } from '../../src/balloon/hint-session.js';
import { effort } from '../support/long.js';
import { type HintEvent, NaiveHintSession } from '../support/naive-hint-session.js';

const TIME_LIMIT_MS = 800;

function accepts(gpa: number, lengthBytes: number): boolean {
  return lengthBytes >= 4096 && gpa % 5 !== 0;
}

/** A sink that refuses some ranges, always the same, and remembers what it was given. */
class Sink implements HintSink {
  readonly given: [gpa: number, lengthBytes: number][] = [];

  hint(gpa: number, lengthBytes: number): boolean {
    this.given.push([gpa, lengthBytes]);
    return accepts(gpa, lengthBytes);
  }
}

type Step =
  | { readonly kind: 'open' }
  | { readonly kind: 'close' }
  /** `value`: one of the words, or this number. */
  | { readonly kind: 'marker'; readonly lengthBytes: number; readonly value: string | number }
  | { readonly kind: 'range'; readonly gpa: number; readonly lengthBytes: number };

const steps: fc.Arbitrary<Step> = fc.oneof(
  { weight: 3, arbitrary: fc.constant<Step>({ kind: 'open' }) },
  { weight: 2, arbitrary: fc.constant<Step>({ kind: 'close' }) },
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant('marker' as const),
      lengthBytes: fc.oneof({ weight: 9, arbitrary: fc.constant(4) }, fc.nat(16)),
      value: fc.oneof(
        { weight: 6, arbitrary: fc.constantFrom('current', 'current', 'stop', 'before', 'next') },
        fc.constantFrom(0, 1, 2, 0xffff_ffff),
      ),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant('range' as const),
      gpa: fc.nat(1 << 20),
      lengthBytes: fc.oneof(
        fc.integer({ min: 1, max: 5 }).map((pages) => pages * 4096),
        fc.nat(20_000),
        fc.constant(4095),
      ),
    }),
  },
);

it('I4 takes what its naive twin takes, which looks at the whole history for each entry', () => {
  const firstIds = fc.constantFrom(2, 3, 1000, 0x7fff_fffe, 0xffff_fffd, 0xffff_ffff);
  fc.assert(
    fc.property(firstIds, fc.array(steps, { maxLength: 40, size: 'max' }), (firstId, program) => {
      const session = new HintSession();
      const twin = new NaiveHintSession(accepts);
      const sinks = new Map<number, Sink>(); // by the event that opened their session
      let id: number = firstId;
      let before: number = firstId;
      for (const [i, step] of program.entries()) {
        const at = 1000 + i;
        let event: HintEvent;
        if (step.kind === 'open') {
          before = id;
          id = nextCommandId(id);
          event = { kind: 'open', id, at };
          const sink = new Sink();
          sinks.set(twin.events.length, sink);
          session.open(id, sink, at);
        } else if (step.kind === 'close') {
          event = { kind: 'close' };
          session.close();
        } else if (step.kind === 'marker') {
          const words: Record<string, number> = { current: id, stop: 0, before, next: nextCommandId(id) };
          const value = typeof step.value === 'number' ? step.value : words[step.value]!;
          event = { kind: 'marker', lengthBytes: step.lengthBytes, value, at };
          session.marker(step.lengthBytes, value, at);
        } else {
          event = { ...step, at };
          session.range(step.gpa, step.lengthBytes, at);
        }
        twin.events.push(event);
        expect({ state: session.state, id: session.id }).toEqual({ state: twin.state, id: twin.id });
      }
      expect(session.counts).toEqual(twin.counts);
      expect(session.times).toEqual(twin.times);
      // Each sink was given the ranges of its own session, in order, and no others.
      for (const [open, sink] of sinks) {
        expect(sink.given).toEqual(twin.handedOver(open));
      }
    }),
    effort(1500, TIME_LIMIT_MS),
  );
});

it('I4 gives out ids of 32 bits, never 0 or 1, each once before any comes again', () => {
  const ids = fc.oneof(
    fc.integer({ min: 0, max: 5 }),
    fc.integer({ min: 0xffff_fff0, max: 0xffff_ffff }),
    fc.integer({ min: 0, max: 0xffff_ffff }),
  );
  fc.assert(
    fc.property(ids, (from) => {
      const seen = new Set<number>();
      for (let id = nextCommandId(from); seen.size < 40; id = nextCommandId(id)) {
        expect(id).toBe(id >>> 0);
        expect(id).toBeGreaterThan(1);
        expect(seen.has(id)).toBe(false);
        seen.add(id);
        // In a circle of 2^32 - 2 ids.
        const place = from < 2 ? seen.size - 1 : (from - 2 + seen.size) % (2 ** 32 - 2);
        expect(id).toBe(place + 2);
      }
    }),
    effort(300, TIME_LIMIT_MS),
  );
});
