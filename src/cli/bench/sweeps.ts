import { InvalidArgumentError } from 'commander';
import { LacunaError } from '../../errors.js';
import { MAX_ORDER } from '../../guest/buddy-allocator.js';
import { syntheticImage } from '../../guest/image.js';
import { GIB, MIB } from '../../memory/page.js';
import { atomicMapper } from '../../memory/shared-words.js';
import { SCHEDULES, type Schedule } from '../../migration/options.js';
import type { Baseline, MeasureName, SweepAxis, SweepValue } from '../../report/schema.js';
import { MADE_UP_RUN_PAGES } from '../guest-options.js';
import {
  parseMemory,
  parsePercent,
  parseRate,
  parseRingSize,
  parseSeconds,
  parseSize,
  parseWhole,
} from '../units.js';
import type { RunSpec } from './run.js';

export const SWEEP_NAMES = [
  'min-order',
  'guest-size',
  'free-share',
  'dirty-rate',
  'link',
  'ring-size',
  'schedule',
  'moment',
] as const;
export type SweepName = (typeof SWEEP_NAMES)[number];

/** A guest that is made up. */
export interface MadeUpGuest {
  readonly memoryBytes: number;
  /** 0 … 0.95 */
  readonly freeShare: number;
}

/** A value of a sweep, and what it changes of a run. */
export interface SweepPoint extends SweepValue {
  readonly change: Partial<RunSpec>;
}

/** One thing that is varied, and what is looked at. Everything that lacuna knows of a sweep is in here. */
export interface Sweep {
  /** For the help. */
  readonly summary: string;
  readonly axis: SweepAxis;
  readonly values: readonly string[];
  /** A value as the user writes it. Throws commander's InvalidArgumentError. */
  readonly point: (text: string, guest: MadeUpGuest) => SweepPoint;
  /** Options that say what the values say, so that both can't be given. */
  readonly varies: readonly string[];
  /** Captures, unless others are named; undefined: a guest is made up (and for each value if that varies it). */
  readonly guests: readonly string[] | undefined;
  /** The line of a chart that guests made for each value make together; undefined: they have one name. */
  readonly series?: string;
  readonly baselines: readonly Baseline[];
  /** Nothing is different without hints: `none` and `zero` need not be run again for each value. */
  readonly hintsOnly: boolean;
  readonly downtimeLimitMs?: number;
  readonly measures: readonly MeasureName[];
}

/** Captures that two cores and 8 GiB have room for. */
const SMALL_CAPTURES = ['build-2g', 'fragmented-2g', 'fragmented-settled-2g'];
const WORKING_SET = '512MiB';

/*
 * Hints are compared with `none`, not `both` with `zero`: of these guests' free memory much is zero, and what zero
 * detection saves would hide what a value changes. `--baseline` has the others.
 */
const AGAINST_NONE: readonly Baseline[] = ['none', 'hints'];

function madeUp({ memoryBytes, freeShare }: MadeUpGuest): Partial<RunSpec> {
  return { image: syntheticImage(atomicMapper, { memoryBytes, freeShare, freeRunPages: MADE_UP_RUN_PAGES }) };
}

function sizeLabel(bytes: number): string {
  return bytes >= GIB ? `${bytes / GIB}GiB` : `${bytes / MIB}MiB`;
}

/** The sweeps of `lacuna bench --sweep`. */
export const SWEEPS: Readonly<Record<SweepName, Sweep>> = {
  'min-order': {
    summary: 'smallest block reported, 2^n pages',
    axis: { label: 'smallest order', unit: '', scale: 'linear' },
    values: ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '10'],
    point: (text) => {
      const minOrder = parseWhole(0, MAX_ORDER)(text);
      return { label: String(minOrder), x: minOrder, change: { minOrder } };
    },
    varies: ['minOrder'],
    guests: SMALL_CAPTURES,
    baselines: AGAINST_NONE,
    hintsOnly: true,
    measures: ['saved', 'ranges', 'hint-time', 'sent'],
  },
  'guest-size': {
    summary: 'memory of a made-up guest, the same share of it free',
    axis: { label: 'guest size', unit: 'GiB', scale: 'log' },
    values: ['256MiB', '512MiB', '1GiB', '2GiB'],
    point: (text, guest) => {
      const memoryBytes = parseMemory(text);
      return {
        label: sizeLabel(memoryBytes),
        x: memoryBytes / GIB,
        change: madeUp({ ...guest, memoryBytes }),
      };
    },
    varies: ['memory', 'guest'],
    guests: undefined,
    series: 'made-up',
    baselines: AGAINST_NONE,
    hintsOnly: false,
    measures: ['saved', 'time', 'ranges', 'hint-time'],
  },
  'free-share': {
    summary: 'how much of a made-up guest is free',
    axis: { label: 'free memory', unit: '%', scale: 'linear' },
    values: ['0%', '10%', '20%', '30%', '40%', '50%', '60%', '70%', '80%', '90%'],
    point: (text, guest) => {
      const freeShare = parsePercent(text);
      const percent = Number((freeShare * 100).toFixed(6));
      return { label: `${percent}%`, x: percent, change: madeUp({ ...guest, freeShare }) };
    },
    varies: ['free', 'guest'],
    guests: undefined,
    baselines: AGAINST_NONE,
    hintsOnly: false,
    measures: ['saved', 'time', 'sent', 'hint-time'],
  },
  'dirty-rate': {
    summary: `working set rewritten, RATE[:SET], by default of ${WORKING_SET}; 0: the guest halts`,
    axis: { label: 'asked of the guest', unit: 'MB/s', scale: 'linear' },
    values: ['0', '50MB/s', '100MB/s', '200MB/s', '400MB/s', '800MB/s'],
    point: (text) => {
      const [rate = '', set = WORKING_SET] = text.split(':');
      const workingSetBytes = parseSize(set);
      if (rate === '0') {
        return { label: '0', x: 0, change: { workload: { kind: 'halt' } } };
      }
      const bytesPerSecond = parseRate(rate);
      if (!Number.isFinite(bytesPerSecond)) {
        throw new InvalidArgumentError(`A rate as in 200MB/s, or in 200MB/s:${WORKING_SET}.`);
      }
      const megabytes = bytesPerSecond / 1e6;
      return {
        label: `${megabytes}MB/s${set === WORKING_SET ? '' : `:${sizeLabel(workingSetBytes)}`}`,
        x: megabytes,
        change: { workload: { kind: 'dirty', bytesPerSecond, workingSetBytes } },
      };
    },
    varies: ['workload'],
    guests: ['build-2g'],
    baselines: AGAINST_NONE,
    hintsOnly: false,
    // The working set takes 430 ms at 10 Gbit/s: with the usual limit of 300 ms one round would settle most of it.
    downtimeLimitMs: 100,
    measures: ['time', 'saved', 'downtime', 'written'],
  },
  link: {
    summary: 'rate of the modelled link',
    axis: { label: 'link', unit: 'Gbit/s', scale: 'steps' },
    values: ['1gbit', '2.5gbit', '5gbit', '10gbit', '20gbit', '40gbit', 'unlimited'],
    point: (text) => {
      const bytesPerSecond = parseRate(text);
      return {
        label: text,
        x: Number.isFinite(bytesPerSecond) ? (bytesPerSecond * 8) / 1e9 : null,
        change: { link: { name: text, bytesPerSecond } },
      };
    },
    varies: ['link'],
    guests: ['build-2g', 'fragmented-2g'],
    baselines: AGAINST_NONE,
    hintsOnly: false,
    measures: ['saved', 'time', 'hint-time', 'in-vain'],
  },
  'ring-size': {
    summary: 'size of the free page queue',
    axis: { label: 'ring size', unit: '', scale: 'log' },
    values: ['64', '256', '1024', '4096', '16384', '32768'],
    point: (text) => {
      const ringSize = parseRingSize(text);
      return { label: String(ringSize), x: ringSize, change: { ringSize } };
    },
    varies: ['ringSize'],
    guests: ['fragmented-2g', 'fragmented-settled-2g'],
    baselines: AGAINST_NONE,
    hintsOnly: true,
    measures: ['saved', 'hint-time', 'ranges', 'dropped'],
  },
  schedule: {
    summary: 'when pages are sent while hints come in',
    axis: { label: 'schedule', unit: '', scale: 'steps' },
    values: SCHEDULES,
    point: (text) => {
      if (!SCHEDULES.includes(text as Schedule)) {
        throw new InvalidArgumentError(`One of ${SCHEDULES.join(', ')}.`);
      }
      return { label: text, x: null, change: { schedule: text as Schedule } };
    },
    varies: ['schedule'],
    guests: SMALL_CAPTURES,
    baselines: AGAINST_NONE,
    hintsOnly: true,
    measures: ['saved', 'hint-time', 'in-vain', 'sent'],
  },
  moment: {
    summary: 'when in a trace the migration begins, in seconds of it',
    axis: { label: 'moment', unit: 's', scale: 'linear' },
    values: ['0', '10', '20', '30', '40', '50'],
    point: (text) => {
      const traceAtMs = parseSeconds(text);
      return { label: String(traceAtMs / 1000), x: traceAtMs / 1000, change: { traceAtMs } };
    },
    varies: ['at', 'memory', 'workload'],
    guests: ['trace-build-2g'],
    baselines: AGAINST_NONE,
    hintsOnly: false,
    measures: ['saved', 'time', 'sent', 'written'],
  },
};

/** The points of a sweep at `values`, each once. Throws INVALID_ARGUMENT for a value that is none of its axis. */
export function pointsOf(name: SweepName, values: readonly string[], guest: MadeUpGuest): SweepPoint[] {
  const points = new Map<string, SweepPoint>();
  for (const text of values) {
    try {
      const point = SWEEPS[name].point(text.trim(), guest);
      points.set(point.label, point);
    } catch (thrown) {
      if (thrown instanceof InvalidArgumentError) {
        throw new LacunaError('INVALID_ARGUMENT', `--values: "${text}" is no ${name}. ${thrown.message}`);
      }
      throw thrown;
    }
  }
  return [...points.values()];
}
