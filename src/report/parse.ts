import { z } from 'zod';
import { DIALECTS } from '../balloon/dialect.js';
import type { LacunaErrorCode } from '../errors.js';
import { SWITCHOVER_REASONS } from '../migration/convergence.js';
import { SOURCE_PHASES } from '../migration/precopy.js';
import type { TimelineEvent } from '../migration/timeline.js';
import {
  AXIS_SCALES,
  BASELINES,
  type BenchReport,
  type BenchRun,
  MEASURE_NAMES,
  SELF_CHECKS,
  type Shard,
  TRANSPORTS,
} from './schema.js';
import { summarise } from './summary.js';

/*
 * The same as `schema.ts`, for reports that are read from files. The types below hold the two together: a field that
 * is in one of them and missing here does not compile. Fields that are not known here are kept as they are.
 */

const count = z.int().nonnegative();
/** A time, a rate or a share; JSON has null for what could not be measured. */
const figure = z
  .number()
  .nullable()
  .transform((value) => value ?? Number.NaN);
/** An error's code: any string, since a later version may know more of them. */
const errorCode = z.string().transform((code) => code as LacunaErrorCode);

const exitCounts = z.looseObject({ configReads: count, configWrites: count, kicks: count });

const shard: z.ZodType<Shard> = z
  .looseObject({ index: z.int().positive(), count: z.int().positive() })
  .refine(({ index, count: shards }) => index <= shards, 'a shard is one of as many as there are');

const machine = z.looseObject({
  cpu: z.string(),
  cores: count,
  memoryBytes: count,
  os: z.string(),
  node: z.string(),
  lacuna: z.string(),
});

const round = z.looseObject({
  round: count,
  start: figure,
  ms: figure,
  bytes: count,
  final: z.boolean(),
  pending: count,
  sent: count,
  zero: count,
  filled: count,
  skipped: count,
  carried: count,
  cancelled: count,
});

const session = z.looseObject({
  id: count,
  round: count,
  ranges: count,
  requested: z.number(),
  'to-start': z.number().nullable(),
  'to-first-range': z.number().nullable(),
  'to-stop': z.number().nullable(),
  'to-close': z.number().nullable(),
  expired: z.boolean(),
});

const run: z.ZodType<BenchRun> = z.looseObject({
  point: z.looseObject({
    position: count,
    group: count,
    series: z.string(),
    value: z.string().nullable(),
  }),
  guest: z.string(),
  memoryBytes: count,
  freePages: count,
  freeMemory: z.string(),
  workload: z.string(),
  baseline: z.enum(BASELINES),
  schedule: z.string(),
  minOrder: count,
  reportMode: z.string(),
  ringSize: count,
  initOnAlloc: z.boolean(),
  pagePoison: count.nullable(),
  dialect: z.enum(DIALECTS),
  link: z.string(),
  linkBytesPerSecond: z.number().positive().nullable(),
  transport: z.enum(TRANSPORTS),
  destination: z.enum(['touched', 'untouched']),
  downtimeLimit: figure,
  seed: count,
  status: z.enum(SOURCE_PHASES),
  error: z.looseObject({ code: errorCode, message: z.string() }).nullable(),
  'total-time': figure,
  downtime: z.number().nullable(),
  'setup-time': figure,
  switchover: z.enum(SWITCHOVER_REASONS).nullable(),
  'cpu-throttle-percentage': figure.default(0), // reports of before there was any throttling
  ram: z.looseObject({
    transferred: count,
    remaining: count,
    total: count,
    duplicate: count,
    skipped: count,
    filled: count,
    normal: count,
    'normal-bytes': count,
    'dirty-sync-count': count,
    dirtied: count,
    mbps: figure,
    'page-size': count,
  }),
  hints: z.looseObject({
    ranges: count,
    hinted: count,
    applied: count,
    stale: count,
    alreadySent: count,
    sentInVain: count,
    notPending: count,
    reDirtied: count,
    rejected: count,
    ringFull: count,
    deadlinesExpired: count,
    sessions: z.array(session),
  }),
  exits: exitCounts.extend({
    byFeature: z.looseObject({
      setup: exitCounts,
      shared: exitCounts,
      reporting: exitCounts,
      ballooning: exitCounts,
      other: exitCounts,
    }),
  }),
  rounds: z.array(round),
  cpu: z.looseObject({ coordinator: figure, guest: figure, destination: figure }),
  guestWork: z.looseObject({
    pagesWritten: count,
    pagesPerSecond: figure,
    askedPagesPerSecond: figure,
  }),
  eventLoop: z.looseObject({ p50: figure, p99: figure, max: figure }),
  replay: z
    .looseObject({
      speed: z.number(),
      beganAt: z.number(),
      stoppedAt: z.number(),
      skipped: count,
      ended: z.boolean(),
    })
    .nullable(),
  timeline: z.looseObject({
    events: z.array(
      z.looseObject({
        ms: z.number(),
        type: z.string().transform((type) => type as TimelineEvent['type']),
        id: count.optional(),
        round: count.optional(),
        share: z.number().optional(),
      }),
    ),
    samples: z.array(z.tuple([z.number(), z.number(), z.number()])),
  }),
  pages: z.looseObject({
    counts: z.looseObject({
      sent: count,
      zero: count,
      skipped: count,
      filled: count,
      resent: count,
      vain: count,
    }),
    pfnSpan: count,
    map: z.string().nullable(),
  }),
  verified: z.looseObject({
    pagesCompared: count,
    pagesDifferent: count,
    pagesLeftBehind: count,
    guestSelfCheck: z.enum(SELF_CHECKS),
  }),
});

const report: z.ZodType<Omit<BenchReport, 'summary'>> = z.looseObject({
  schema: z.literal(1, 'this version of lacuna reads schema 1'),
  createdAt: z.iso.datetime(),
  command: z.string(),
  machine,
  plan: z.looseObject({
    runs: count,
    groups: count,
    digest: z.string(),
    settings: z.record(z.string(), z.string()),
    shard: shard.nullable(),
  }),
  sweep: z
    .looseObject({
      name: z.string(),
      axis: z.looseObject({ label: z.string(), unit: z.string(), scale: z.enum(AXIS_SCALES) }),
      values: z.array(z.looseObject({ label: z.string(), x: z.number().nullable() })),
      measures: z.array(z.enum(MEASURE_NAMES)),
    })
    .nullable(),
  parts: z.array(
    z.looseObject({ shard, runs: count, createdAt: z.iso.datetime(), command: z.string(), machine }),
  ),
  runs: z.array(run),
});

/**
 * A report of `lacuna bench` that was read from a file. Its summary is not believed but made anew of its runs.
 * Throws a ZodError that says what is wrong with it.
 */
export function parseBenchReport(json: unknown): BenchReport {
  const parsed = report.parse(json);
  return { ...parsed, summary: summarise(parsed.runs) };
}
