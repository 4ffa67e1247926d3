import { createHash } from 'node:crypto';
import Table from 'cli-table3';
import { LacunaError } from '../../errors.js';
import { GIB } from '../../memory/page.js';
import { RamLayout } from '../../memory/ram-layout.js';
import {
  BASELINES,
  type Baseline,
  type PlanReport,
  type RunPoint,
  type Shard,
  type SweepReport,
} from '../../report/schema.js';
import { TABLE_STYLE } from '../../report/table.js';
import type { StoredGuest } from '../captures.js';
import { describeWorkload } from '../workload-option.js';
import type { RunSpec } from './run.js';
import { SWEEPS, type SweepName, type SweepPoint } from './sweeps.js';

/*
 * All runs of a benchmark are laid out before the first is made, in an order that follows from what was asked for
 * alone. So N machines that are asked for the same and for a shard each have the same plan, and every run is in
 * exactly one of their shards.
 *
 *   group   runs that are compared with each other. Baselines and values alternate in it, so that a machine that
 *           changes its speed does so to all of them; and a group is never cut: it is of one shard.
 */

/** What a plan is made from. */
export interface PlanRequest {
  /** Replaced by the sweep's where that makes a guest for each value. */
  readonly guests: readonly StoredGuest[];
  readonly baselines: readonly Baseline[];
  readonly runs: number;
  readonly seed: number;
  readonly spec: Omit<RunSpec, 'image' | 'baseline' | 'seed'>;
  readonly sweep: { readonly name: SweepName; readonly points: readonly SweepPoint[] } | undefined;
}

export interface PlannedRun {
  readonly spec: RunSpec;
  readonly point: RunPoint;
}

export interface Plan {
  readonly runs: readonly PlannedRun[];
  readonly report: PlanReport;
  readonly sweep: SweepReport | null;
}

/**
 * Values that one measurement of what they do not touch serves: few enough for it to be near them in time, and for a
 * sweep of one guest to be split.
 */
export const VALUES_PER_REFERENCE = 4;

const NO_HINTS: readonly Baseline[] = ['none', 'zero'];

/** A place in a group: what is run there each time around. */
interface Cell {
  readonly value: string | null;
  readonly change: Partial<RunSpec>;
  readonly baselines: readonly Baseline[];
}

/** Lays out all runs. Throws INVALID_ARGUMENT for a sweep whose values would change nothing. */
export function planOf(request: PlanRequest): Plan {
  const { sweep } = request;
  const groups = cellsOf(request);
  const runs: PlannedRun[] = [];
  let group = 0;
  for (const image of request.guests) {
    for (const cells of groups) {
      for (let run = 0; run < request.runs; run += 1) {
        for (const { value, change, baselines } of cells) {
          for (const baseline of baselines) {
            const spec: RunSpec = { ...request.spec, image, baseline, seed: request.seed, ...change };
            const series = (sweep && SWEEPS[sweep.name].series) ?? spec.image.name;
            runs.push({ spec, point: { position: runs.length, group, series, value } });
          }
        }
      }
      group += 1;
    }
  }
  return {
    runs,
    report: {
      runs: runs.length,
      groups: group,
      digest: digestOf(runs),
      settings: settingsOf(request),
      shard: null,
    },
    sweep:
      sweep === undefined
        ? null
        : {
            name: sweep.name,
            axis: SWEEPS[sweep.name].axis,
            values: sweep.points.map(({ label, x }) => ({ label, x })),
            measures: SWEEPS[sweep.name].measures,
          },
  };
}

/** The groups of one guest. */
function cellsOf({ sweep, baselines: wanted }: PlanRequest): Cell[][] {
  const baselines = BASELINES.filter((name) => wanted.includes(name));
  if (sweep === undefined) {
    return [[{ value: null, change: {}, baselines }]];
  }
  const { hintsOnly } = SWEEPS[sweep.name];
  const touched = hintsOnly ? baselines.filter((name) => !NO_HINTS.includes(name)) : baselines;
  const untouched = baselines.filter((name) => !touched.includes(name));
  if (touched.length === 0) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `a sweep over ${sweep.name} changes nothing without hints: add hints or both to --baseline`,
    );
  }
  const perGroup = untouched.length > 0 ? VALUES_PER_REFERENCE : 1;
  const groups: Cell[][] = [];
  for (let at = 0; at < sweep.points.length; at += perGroup) {
    const cells = sweep.points
      .slice(at, at + perGroup)
      .map(({ label, change }): Cell => ({ value: label, change, baselines: touched }));
    groups.push(untouched.length > 0 ? [{ value: null, change: {}, baselines: untouched }, ...cells] : cells);
  }
  return groups;
}

/** The runs of one shard, in the plan's order. Groups are dealt out in turn, so that large and small ones mix. */
export function shardOf(plan: Plan, shard: Shard | null): Plan {
  if (shard === null) {
    return plan;
  }
  return {
    ...plan,
    runs: plan.runs.filter(({ point }) => (point.group % shard.count) + 1 === shard.index),
    report: { ...plan.report, shard },
  };
}

/** Of everything that decides what is run, so that plans can be told apart that were asked for in the same words. */
function digestOf(runs: readonly PlannedRun[]): string {
  const hash = createHash('sha256');
  const images = new Map<StoredGuest, string>();
  for (const { spec, point } of runs) {
    const { image, ...rest } = spec;
    let print = images.get(image);
    if (print === undefined) {
      print = createHash('sha256')
        .update(JSON.stringify([image.name, image.blocks]))
        .update(new Uint8Array(image.free))
        .update(new Uint8Array(image.zero))
        .digest('hex');
      images.set(image, print);
    }
    const link = [rest.link.name, String(rest.link.bytesPerSecond)];
    hash.update(JSON.stringify([point, print, { ...rest, link }]));
  }
  return hash.digest('hex');
}

/** What was asked for, as `--help` names it; without what the sweep varies. */
function settingsOf({ guests, baselines, runs, seed, spec, sweep }: PlanRequest): Record<string, string> {
  const varied = sweep?.points[0]?.change ?? {};
  const of = (name: string, field: keyof RunSpec, value: string): Record<string, string> =>
    field in varied ? {} : { [name]: value };
  return {
    ...(sweep === undefined
      ? {}
      : { sweep: sweep.name, values: sweep.points.map(({ label }) => label).join(',') }),
    ...of('guest', 'image', guests.map(({ name }) => name).join(' ')),
    baseline: BASELINES.filter((name) => baselines.includes(name)).join(','),
    runs: String(runs),
    seed: String(seed),
    'free-memory': spec.freeMemory,
    ...(spec.freeMemory === 'captured' && guests.some(({ zeroUnknown }) => zeroUnknown === true)
      ? {
          'zero-pages': guests
            .flatMap(({ name, zeroUnknown }) => (zeroUnknown === true ? [name] : []))
            .join(' '),
        }
      : {}),
    ...of('workload', 'workload', describeWorkload(spec.workload)),
    ...(guests.some(({ trace }) => trace !== undefined)
      ? {
          ...of('at', 'traceAtMs', `${spec.traceAtMs / 1000} s`),
          'trace-speed': String(spec.traceSpeed),
        }
      : {}),
    ...of('schedule', 'schedule', spec.schedule),
    ...of('min-order', 'minOrder', String(spec.minOrder)),
    'report-mode': spec.reportMode,
    ...(spec.dialect === 'command-register' ? {} : { dialect: spec.dialect }),
    'init-on-alloc': String(spec.initOnAlloc),
    ...(spec.pagePoison === null
      ? {}
      : { 'page-poison': `0x${spec.pagePoison.toString(16).padStart(8, '0')}` }),
    ...of('ring-size', 'ringSize', String(spec.ringSize)),
    ...of('link', 'link', spec.link.name),
    'downtime-limit': `${spec.downtimeLimitMs} ms`,
    ...(spec.transport === 'memory' ? {} : { transport: spec.transport }),
    destination: spec.destination,
  };
}

/** The layout of the largest guest whose memory is all touched; undefined if there is none. */
export function largestLayout({ runs }: Plan): RamLayout | undefined {
  const layouts = [...new Set(runs.map(({ spec }) => spec.image))]
    .filter(({ sparse }) => sparse !== true)
    .map(({ blocks }) => new RamLayout(blocks));
  return layouts.sort((a, b) => b.memoryBytes - a.memoryBytes)[0];
}

/** The size of a plan in a line. */
export function planLine(plan: Plan): string {
  const { report, runs, sweep } = plan;
  const groups = new Set(runs.map(({ point }) => point.group)).size;
  const counted = (n: number, what: string): string => `${n} ${what}${n === 1 ? '' : 's'}`;
  const bytes = largestLayout(plan)?.memoryBytes ?? 0;
  return [
    `plan: ${counted(runs.length, 'run')} in ${counted(groups, 'group')}`,
    ...(sweep === null ? [] : [`${sweep.name} at ${sweep.values.map(({ label }) => label).join(', ')}`]),
    ...(report.shard === null
      ? []
      : [`shard ${report.shard.index}/${report.shard.count} of ${counted(report.runs, 'run')}`]),
    bytes === 0
      ? 'memory for what its sparse guests hold'
      : `${((2 * bytes) / GIB).toFixed(1)} GiB of memory for the largest guest and its destination`,
  ].join('; ');
}

/** A plan, group by group. */
export function planTable(plan: Plan): string {
  const table = new Table({
    head: ['group', 'guest', plan.sweep?.axis.label ?? '', 'baselines', 'runs'],
    colAligns: ['right', 'left', 'left', 'left', 'right'],
    style: TABLE_STYLE,
  });
  for (const group of new Set(plan.runs.map(({ point }) => point.group))) {
    const own = plan.runs.filter(({ point }) => point.group === group);
    const different = <T>(of: (run: PlannedRun) => T | null): T[] =>
      [...new Set(own.map(of))].filter((value) => value !== null);
    table.push([
      String(group),
      different(({ point }) => point.series).join(', '),
      different(({ point }) => point.value).join(', '),
      different(({ spec }) => spec.baseline).join(', '),
      String(own.length),
    ]);
  }
  return table.toString();
}
