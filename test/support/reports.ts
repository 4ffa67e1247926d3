import { type PlanRequest, planOf, shardOf } from '../../src/cli/bench/plan.js';
import { pointsOf, type SweepName } from '../../src/cli/bench/sweeps.js';
import { describeWorkload } from '../../src/cli/workload-option.js';
import { syntheticImage } from '../../src/guest/image.js';
import { IDLE_WORKLOAD } from '../../src/guest/workload.js';
import { MIB } from '../../src/memory/page.js';
import { atomicMapper } from '../../src/memory/shared-words.js';
import type { BenchReport, BenchRun, MachineReport, Shard } from '../../src/report/schema.js';
import { summarise } from '../../src/report/summary.js';

export const MACHINE: MachineReport = {
  cpu: 'A processor',
  cores: 2,
  memoryBytes: 8192 * MIB,
  os: 'Linux 6.1',
  node: 'v20.20.2',
  lacuna: '0.1.0',
};

const LINK = { name: '10gbit', bytesPerSecond: 1.25e9 };

/** A plan over small made-up guests. */
export function planRequest(
  changes: Partial<Omit<PlanRequest, 'sweep'>> & {
    readonly guestCount?: number;
    readonly sweep?: SweepName;
    readonly values?: readonly string[];
  } = {},
): PlanRequest {
  const { guestCount = 1, sweep, values = [], ...rest } = changes;
  return {
    guests: Array.from({ length: guestCount }, (_, i) =>
      syntheticImage(atomicMapper, { memoryBytes: (16 + i) * MIB, freeShare: 0.5, freeRunPages: 8 }),
    ),
    baselines: ['none', 'hints'],
    runs: 2,
    seed: 1,
    spec: {
      freeMemory: 'captured',
      workload: IDLE_WORKLOAD,
      traceAtMs: 0,
      traceSpeed: 1,
      schedule: 'adaptive',
      minOrder: 0,
      reportMode: 'walk',
      dialect: 'command-register',
      ringSize: 4096,
      initOnAlloc: false,
      pagePoison: null,
      link: LINK,
      downtimeLimitMs: 300,
      transport: 'memory',
      destination: 'touched',
    },
    sweep: sweep && {
      name: sweep,
      points: pointsOf(sweep, values, { memoryBytes: 16 * MIB, freeShare: 0.5 }),
    },
    ...rest,
  };
}

const NO_EXITS = { configReads: 0, configWrites: 0, kicks: 0 };

/** What a run could have given: its times follow from its position and baseline. */
function runAt({ spec, point }: ReturnType<typeof planOf>['runs'][number]): BenchRun {
  const hinted = spec.baseline === 'hints' || spec.baseline === 'both';
  return {
    point,
    guest: spec.image.name,
    memoryBytes: 16 * MIB,
    freePages: 2048,
    freeMemory: spec.freeMemory,
    workload: describeWorkload(spec.workload),
    baseline: spec.baseline,
    schedule: spec.schedule,
    minOrder: spec.minOrder,
    reportMode: spec.reportMode,
    ringSize: spec.ringSize,
    initOnAlloc: spec.initOnAlloc,
    pagePoison: spec.pagePoison,
    dialect: 'command-register',
    link: spec.link.name,
    linkBytesPerSecond: LINK.bytesPerSecond,
    transport: spec.transport,
    destination: spec.destination,
    downtimeLimit: spec.downtimeLimitMs,
    seed: spec.seed,
    status: 'completed',
    error: null,
    'total-time': hinted ? 40 : 100,
    downtime: 5,
    'setup-time': 0.1,
    switchover: 'downtime-limit',
    'cpu-throttle-percentage': 0,
    ram: {
      transferred: 16 * MIB,
      remaining: 0,
      total: 16 * MIB,
      duplicate: 0,
      skipped: hinted ? 2048 : 0,
      filled: 0,
      normal: 4096,
      'normal-bytes': 16 * MIB,
      'dirty-sync-count': 2,
      dirtied: 3,
      mbps: 1000,
      'page-size': 4096,
    },
    hints: {
      ranges: hinted ? 256 : 0,
      hinted: hinted ? 2048 : 0,
      applied: hinted ? 2048 : 0,
      stale: 0,
      alreadySent: 0,
      sentInVain: 0,
      notPending: 0,
      reDirtied: 0,
      rejected: 0,
      ringFull: 0,
      deadlinesExpired: 0,
      sessions: hinted
        ? [
            {
              id: 2,
              round: 1,
              ranges: 256,
              requested: 0.1,
              'to-start': 0.1,
              'to-first-range': 0.2,
              'to-stop': 3,
              'to-close': 4,
              expired: false,
            },
          ]
        : [],
    },
    exits: {
      ...NO_EXITS,
      byFeature: {
        setup: NO_EXITS,
        shared: NO_EXITS,
        reporting: NO_EXITS,
        ballooning: NO_EXITS,
        other: NO_EXITS,
      },
    },
    rounds: [],
    cpu: { coordinator: 1, guest: 1, destination: 1 },
    guestWork: { pagesWritten: 1, pagesPerSecond: 50, askedPagesPerSecond: 50 },
    eventLoop: { p50: 1, p99: 2, max: 3 },
    replay: null,
    timeline: { events: [{ ms: 0, type: 'started' }], samples: [[0, 0, 0]] },
    pages: {
      counts: { sent: 4096, zero: 0, skipped: 0, filled: 0, resent: 0, vain: 0 },
      pfnSpan: 4096,
      map: null,
    },
    verified: { pagesCompared: 4096, pagesDifferent: 0, pagesLeftBehind: 0, guestSelfCheck: 'passed' },
  };
}

/** A report as a shard of the plan would have written it. */
export function reportFor(request: PlanRequest, shard: Shard | null = null): BenchReport {
  const plan = shardOf(planOf(request), shard);
  const runs = plan.runs.map(runAt);
  return {
    schema: 1,
    createdAt: '2025-01-01T12:00:00.000Z',
    command: `lacuna bench${shard === null ? '' : ` --shard ${shard.index}/${shard.count}`} --quiet`,
    machine: MACHINE,
    plan: plan.report,
    sweep: plan.sweep,
    parts: [],
    runs,
    summary: summarise(runs),
  };
}
