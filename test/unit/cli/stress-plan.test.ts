import { createHash } from 'node:crypto';
import { InvalidArgumentError } from 'commander';
import { describe, expect, it } from 'vitest';
import { DIALECTS, type Dialect } from '../../../src/balloon/dialect.js';
import { faultsWith, parseCases, parseFaults } from '../../../src/cli/stress/command.js';
import { describeGuest, describeHop } from '../../../src/cli/stress/describe.js';
import { imageOf } from '../../../src/cli/stress/guests.js';
import {
  type CasePlan,
  FAULT_KINDS,
  type FaultKind,
  faultsOf,
  planCase,
  type StressTransport,
  TRANSPORTS,
} from '../../../src/cli/stress/plan.js';
import { Random } from '../../../src/cli/stress/random.js';
import { reproduction } from '../../../src/cli/stress/stress.js';
import { findMetadataPlace, imageBitmaps } from '../../../src/guest/image.js';
import { RamLayout } from '../../../src/memory/ram-layout.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { resolveOptions } from '../../../src/migration/options.js';
import { MOST_PIECES } from '../../../src/transport/faulty.js';

const SEED = 20_171_103;
const MEMORY_FAULTS = faultsOf('memory');

function plans(
  cases: number,
  faults: readonly FaultKind[] = MEMORY_FAULTS,
  seed = SEED,
  transport: StressTransport = 'memory',
): CasePlan[] {
  return Array.from({ length: cases }, (_, i) => planCase(seed, i + 1, faults, transport));
}

function hopsByTcp(
  cases: number,
  faults: readonly FaultKind[] = faultsOf('tcp'),
): CasePlan['hops'][number][] {
  return plans(cases, faults, SEED, 'tcp').flatMap(({ hops }) => hops);
}

describe('a plan', () => {
  it('follows from seed, case number and faults alone', () => {
    expect(plans(50)).toEqual(plans(50));
    // A case by itself is what it is as one of many.
    expect(planCase(SEED, 37, MEMORY_FAULTS)).toEqual(plans(50)[36]);
  });

  it('is another for another seed, case or list of faults', () => {
    const texts = [
      ...plans(200),
      ...plans(200, MEMORY_FAULTS, SEED + 1),
      ...plans(200, MEMORY_FAULTS, 0),
    ].map(({ guest, hops }) => JSON.stringify({ guest: guest.seed, hops }));
    expect(new Set(texts).size).toBe(texts.length);
    expect(plans(50, ['cancel'])).not.toEqual(plans(50));
  });

  it('is what it was before there was a network: seeds that are written down somewhere stay worth something', () => {
    const hash = createHash('sha256');
    for (const plan of plans(300)) {
      // All but what was added since, from a source of its own.
      const { dialect: _later, ...guest } = plan.guest;
      hash.update(JSON.stringify({ ...plan, guest }));
    }
    expect(hash.digest('hex')).toBe('dc5d8c9a9fac2d4e4013c821c811f529f497fcd1ee5e1811bfaad73e40717ebd');
  });

  it('has guests of both dialects', () => {
    const of = (dialect: Dialect): number =>
      plans(300).filter(({ guest }) => guest.dialect === dialect).length;
    for (const dialect of DIALECTS) {
      expect(of(dialect), dialect).toBeGreaterThan(100);
    }
  });

  it('has only faults that were asked for', () => {
    expect(plans(300, []).flatMap(({ hops }) => hops.flatMap(({ kinds }) => kinds))).toEqual([]);
    for (const kind of MEMORY_FAULTS) {
      const seen = new Set(plans(100, [kind]).flatMap(({ hops }) => hops.flatMap(({ kinds }) => kinds)));
      expect([...seen], kind).toEqual([kind]);
    }
  });

  it('has all of them before long, and the faults are those of its kinds', () => {
    const hops = plans(400).flatMap((plan) => plan.hops);
    expect(new Set(hops.flatMap(({ kinds }) => kinds))).toEqual(new Set(MEMORY_FAULTS));
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

describe('a plan by TCP', () => {
  const FAULTS = faultsOf('tcp');

  it('follows from seed, case number and faults, and is that by memory where only the way differs', () => {
    expect(plans(50, FAULTS, SEED, 'tcp')).toEqual(plans(50, FAULTS, SEED, 'tcp'));
    const shared = FAULTS.filter((kind) => MEMORY_FAULTS.includes(kind));
    for (const [i, { guest, hops }] of plans(50, shared, SEED, 'tcp').entries()) {
      const { guest: sameGuest, hops: sameHops } = plans(50, shared)[i]!;
      expect(guest).toEqual(sameGuest);
      expect(hops.map(({ faults, seed }) => ({ faults, seed }))).toEqual(
        sameHops.map(({ faults, seed }) => ({ faults, seed })),
      );
    }
  });

  it('has all kinds of fault before long, and the faults are those of its kinds', () => {
    const hops = hopsByTcp(400);
    expect(new Set(hops.flatMap(({ kinds }) => kinds))).toEqual(new Set(FAULTS));
    for (const { kinds, faults } of hops) {
      const has = (kind: FaultKind): boolean => kinds.includes(kind);
      expect(faults.cuts !== undefined).toBe(has('link-cuts'));
      expect(faults.silences !== undefined).toBe(has('link-silent'));
      expect(faults.restarts !== undefined).toBe(has('destination-restarts'));
      expect(faults.hostilePeers !== undefined).toBe(has('hostile-peer'));
      expect(faults.transport).toBeUndefined();
      expect(faults.destinationDies).toBeUndefined();
    }
  });

  it('varies the way: streams, compression, TLS, throttling', () => {
    const hops = hopsByTcp(200);
    const seen = <T>(of: (hop: CasePlan['hops'][number]) => T): Set<T> => new Set(hops.map(of));
    expect(seen(({ network }) => network!.streams)).toEqual(new Set([1, 2, 3, 4]));
    expect(seen(({ network }) => network!.compression)).toEqual(new Set(['off', 'auto', 'on']));
    expect(seen(({ network }) => network!.tls)).toEqual(new Set([true, false]));
    expect(seen(({ options }) => options.onStall)).toEqual(new Set(['switch', 'throttle', 'cancel']));
    expect(seen(({ options }) => options.switchoverBytesPerSecond === undefined)).toEqual(
      new Set([true, false]),
    );
  });

  it('gives a link that is not to be given up the time to come back', () => {
    const hops = hopsByTcp(200, ['link-cuts', 'link-silent']);
    const isForGood = ({ faults }: CasePlan['hops'][number]): boolean =>
      faults.cuts?.some(({ refuseMs }) => refuseMs === Number.POSITIVE_INFINITY) === true;
    const forGood = hops.filter(isForGood);
    expect(forGood.length).toBeGreaterThan(10);
    expect(Math.max(...forGood.map(({ options }) => options.recoveryTimeoutMs!))).toBeLessThan(1000);
    for (const { faults, options, network } of hops.filter((hop) => !isForGood(hop))) {
      expect(options.recoveryTimeoutMs).toBeGreaterThan(10_000);
      expect(faults.silences === undefined).toBe(network!.silenceMs > 10_000);
      for (const { ms } of faults.silences ?? []) {
        expect(ms).toBeLessThan(2000);
      }
    }
  });

  it('has options that make sense, and reads as words', () => {
    for (const { hops } of plans(300, FAULTS, SEED, 'tcp')) {
      for (const [i, hop] of hops.entries()) {
        expect(() => resolveOptions(hop.options)).not.toThrow();
        expect(describeHop(hop, i + 1)).toMatch(/^migration \d+ by T(CP|LS) over [1-4] streams/);
        expect(describeHop(hop, i + 1).replaceAll('switchoverBytesPerSecond undefined', '')).not.toContain(
          'undefined',
        );
        expect(describeHop(hop, i + 1).includes('no faults')).toBe(hop.kinds.length === 0);
      }
    }
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
    expect(parseFaults('all')).toBe('all');
    expect(parseFaults('none')).toEqual([]);
    expect(parseFaults('cancel,driver-lies')).toEqual(parseFaults('driver-lies, cancel'));
    expect(() => parseFaults('cancel,lightning')).toThrow(InvalidArgumentError);
  });

  it('takes the faults that there are with a transport, and says which those are', () => {
    for (const transport of TRANSPORTS) {
      expect(faultsWith(transport, 'all')).toEqual(faultsOf(transport));
    }
    expect(new Set([...faultsOf('memory'), ...faultsOf('tcp')])).toEqual(new Set(FAULT_KINDS));
    expect(faultsWith('tcp', ['cancel', 'link-cuts'])).toEqual(['cancel', 'link-cuts']);
    expect(() => faultsWith('memory', ['cancel', 'link-cuts'])).toThrow(
      /no "link-cuts" .* memory.*reply-lost/,
    );
    expect(() => faultsWith('tcp', ['reply-lost'])).toThrow(/no "reply-lost" .* tcp.*link-cuts/);
  });

  it('takes one case or several', () => {
    expect(parseCases('17')).toEqual({ first: 17, last: 17 });
    expect(parseCases('17..20')).toEqual({ first: 17, last: 20 });
    for (const wrong of ['', '0', '3..2', '1..2..3', '1.5', 'x', '1..']) {
      expect(() => parseCases(wrong), wrong).toThrow(InvalidArgumentError);
    }
  });

  it('tells how to run a case again, transport and faults included', () => {
    const memory = { seed: 5, transport: 'memory' } as const;
    expect(reproduction({ ...memory, faults: MEMORY_FAULTS }, 12)).toBe('lacuna stress --seed 5 --case 12');
    expect(reproduction({ ...memory, faults: ['cancel', 'balloon'] }, 12)).toBe(
      'lacuna stress --seed 5 --case 12 --faults cancel,balloon',
    );
    expect(reproduction({ ...memory, faults: [] }, 1)).toBe('lacuna stress --seed 5 --case 1 --faults none');
    expect(reproduction({ seed: 5, transport: 'tcp', faults: faultsOf('tcp') }, 12)).toBe(
      'lacuna stress --transport tcp --seed 5 --case 12',
    );
  });
});
