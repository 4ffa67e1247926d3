import { InvalidArgumentError } from 'commander';
import { describe, expect, it } from 'vitest';
import { parseCases, parseFaults } from '../../../src/cli/stress/command.js';
import { describeGuest, describeHop } from '../../../src/cli/stress/describe.js';
import { imageOf } from '../../../src/cli/stress/guests.js';
import { type CasePlan, FAULT_KINDS, type FaultKind, planCase } from '../../../src/cli/stress/plan.js';
import { Random } from '../../../src/cli/stress/random.js';
import { reproduction } from '../../../src/cli/stress/stress.js';
import { findMetadataPlace, imageBitmaps } from '../../../src/guest/image.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { resolveOptions } from '../../../src/migration/options.js';
import { MOST_PIECES } from '../../../src/transport/faulty.js';

const SEED = 20_171_103;

function plans(cases: number, faults: readonly FaultKind[] = FAULT_KINDS, seed = SEED): CasePlan[] {
  return Array.from({ length: cases }, (_, i) => planCase(seed, i + 1, faults));
}

describe('a plan', () => {
  it('follows from seed, case number and faults alone', () => {
    expect(plans(50)).toEqual(plans(50));
    // A case by itself is what it is as one of many.
    expect(planCase(SEED, 37, FAULT_KINDS)).toEqual(plans(50)[36]);
  });

  it('is another for another seed, case or list of faults', () => {
    const texts = [...plans(200), ...plans(200, FAULT_KINDS, SEED + 1), ...plans(200, FAULT_KINDS, 0)].map(
      ({ guest, hops }) => JSON.stringify({ guest: guest.seed, hops }),
    );
    expect(new Set(texts).size).toBe(texts.length);
    expect(plans(50, ['cancel'])).not.toEqual(plans(50));
  });

  it('has only faults that were asked for', () => {
    expect(plans(300, []).flatMap(({ hops }) => hops.flatMap(({ kinds }) => kinds))).toEqual([]);
    for (const kind of FAULT_KINDS) {
      const seen = new Set(plans(100, [kind]).flatMap(({ hops }) => hops.flatMap(({ kinds }) => kinds)));
      expect([...seen], kind).toEqual([kind]);
    }
  });

  it('has all of them before long, and the faults are those of its kinds', () => {
    const hops = plans(400).flatMap((plan) => plan.hops);
    expect(new Set(hops.flatMap(({ kinds }) => kinds))).toEqual(new Set(FAULT_KINDS));
    for (const { kinds, faults } of hops) {
      const has = (kind: FaultKind): boolean => kinds.includes(kind);
      expect(faults.driver?.kind).toBe(
        kinds.find((kind) => kind.startsWith('driver-') || kind === 'vcpu-stuck'),
      );
      expect(faults.balloon !== undefined).toBe(has('balloon'));
      expect(faults.destinationDies !== undefined).toBe(has('destination-dies'));
      expect(faults.refuses !== undefined).toBe(has('destination-refuses'));
      expect(faults.transport?.failAtFrame !== undefined).toBe(has('transport-fails'));
      expect(faults.transport?.stall !== undefined).toBe(has('transport-stalls'));
      expect(faults.transport?.pieces !== undefined).toBe(has('transport-splits'));
      expect(faults.transport?.loses !== undefined).toBe(has('reply-lost'));
      expect(faults.transport?.pieces ?? 0).toBeLessThanOrEqual(MOST_PIECES);
      expect(has('cancel') ? (faults.cancels ?? []).length : 1).toBeGreaterThan(0);
    }
  });

  it('never stalls for ever without something that ends it soon', () => {
    const stalled = plans(600, ['transport-stalls', 'cancel'])
      .flatMap(({ hops }) => hops)
      .filter(({ faults }) => faults.transport?.stall?.ms === Number.POSITIVE_INFINITY);
    expect(stalled.length).toBeGreaterThan(20);
    for (const { options } of stalled) {
      expect(options.sendTimeoutMs).toBeLessThanOrEqual(100);
    }
  });

  it('has options that make sense, and reads as words', () => {
    for (const { guest, hops } of plans(300)) {
      expect(describeGuest(guest)).toMatch(/^guest: \d+ MiB/);
      for (const [i, hop] of hops.entries()) {
        expect(() => resolveOptions(hop.options)).not.toThrow();
        expect(describeHop(hop, i + 1)).not.toContain('undefined');
        expect(describeHop(hop, i + 1).includes('no faults')).toBe(hop.kinds.length === 0);
      }
    }
  });

  it('has guests with room for their tables, and pieces of captures with their free pages', () => {
    const free: number[] = [];
    for (const { guest } of plans(200)) {
      if (guest.image.from === 'whole-capture') {
        continue;
      }
      const image = imageOf(guest);
      expect(new RamLayout(image.blocks).memoryBytes).toBe(guest.memoryBytes);
      expect(() => findMetadataPlace(atomicMapper, image, guest.ringSize)).not.toThrow();
      if (guest.image.from === 'capture') {
        free.push(imageBitmaps(atomicMapper, image).free.count());
      }
    }
    expect(free.length).toBeGreaterThan(10);
    expect(free.filter((pages) => pages > 100).length).toBeGreaterThan(free.length / 2);
  });
});

describe('Random', () => {
  it('keeps to its bounds and reaches both', () => {
    const random = new Random(7);
    const seen = Array.from({ length: 2000 }, () => ({
      whole: random.whole(3, 6),
      scale: random.wholeByScale(1, 64),
      next: random.next(),
    }));
    expect(new Set(seen.map(({ whole }) => whole))).toEqual(new Set([3, 4, 5, 6]));
    const scales = seen.map(({ scale }) => scale);
    expect([Math.min(...scales), Math.max(...scales)]).toEqual([1, 64]);
    expect(seen.every(({ next }) => next >= 0 && next < 1)).toBe(true);
  });

  it('does not begin alike for neighbouring seeds', () => {
    const first = Array.from({ length: 1000 }, (_, seed) => new Random(seed).next());
    const mean = first.reduce((sum, value) => sum + value, 0) / first.length;
    expect(mean).toBeGreaterThan(0.45);
    expect(mean).toBeLessThan(0.55);
    expect(new Set(first).size).toBe(1000);
  });
});

describe('the command line', () => {
  it('takes all faults, none, or some, in whatever order', () => {
    expect(parseFaults('all')).toEqual(FAULT_KINDS);
    expect(parseFaults('none')).toEqual([]);
    expect(parseFaults('cancel,driver-lies')).toEqual(parseFaults('driver-lies, cancel'));
    expect(() => parseFaults('cancel,lightning')).toThrow(InvalidArgumentError);
  });

  it('takes one case or several', () => {
    expect(parseCases('17')).toEqual({ first: 17, last: 17 });
    expect(parseCases('17..20')).toEqual({ first: 17, last: 20 });
    for (const wrong of ['', '0', '3..2', '1..2..3', '1.5', 'x', '1..']) {
      expect(() => parseCases(wrong), wrong).toThrow(InvalidArgumentError);
    }
  });

  it('tells how to run a case again, faults included', () => {
    expect(reproduction({ seed: 5, faults: FAULT_KINDS }, 12)).toBe('lacuna stress --seed 5 --case 12');
    expect(reproduction({ seed: 5, faults: ['cancel', 'balloon'] }, 12)).toBe(
      'lacuna stress --seed 5 --case 12 --faults cancel,balloon',
    );
    expect(reproduction({ seed: 5, faults: [] }, 1)).toBe('lacuna stress --seed 5 --case 1 --faults none');
  });
});
