import { EXIT_WORDS, EXITS } from '../memory/control-buffer.js';
import type { SharedWords } from '../memory/shared-words.js';

/**
 * VM exits, counted where they happen. Every access of the guest to the device's config space and every kick of
 * a queue leaves the guest (a trap); the mail's case for one command register is that it saves such exits.
 */
export const ExitKind = { configRead: 0, configWrite: 1, kick: 2 } as const;
export type ExitKindValue = (typeof ExitKind)[keyof typeof ExitKind];

/** On whose account an exit goes. `shared` is the command register itself: its read and its acknowledgement. */
export const ExitFeature = { setup: 0, shared: 1, reporting: 2, ballooning: 3, other: 4 } as const;
export type ExitFeatureValue = (typeof ExitFeature)[keyof typeof ExitFeature];

const KINDS = 4;

/** Called in the trap, on the vCPU's own thread. */
export function countExit(words: SharedWords, feature: ExitFeatureValue, kind: ExitKindValue): void {
  words.add(EXITS + feature * KINDS + kind, 1);
}

/** Exits by kind. */
export interface ExitCounts {
  configReads: number;
  configWrites: number;
  kicks: number;
}

/** Exits since the guest was made, by feature. */
export type ExitTable = Record<keyof typeof ExitFeature, ExitCounts>;

/** Reads all counters. */
export function readExits(words: SharedWords): ExitTable {
  const of = (feature: ExitFeatureValue): ExitCounts => {
    const at = EXITS + feature * KINDS;
    return {
      configReads: words.load(at + ExitKind.configRead) >>> 0,
      configWrites: words.load(at + ExitKind.configWrite) >>> 0,
      kicks: words.load(at + ExitKind.kick) >>> 0,
    };
  };
  return {
    setup: of(ExitFeature.setup),
    shared: of(ExitFeature.shared),
    reporting: of(ExitFeature.reporting),
    ballooning: of(ExitFeature.ballooning),
    other: of(ExitFeature.other),
  };
}

/** None yet, for whoever counts by itself. */
export function noExits(): ExitTable {
  const none = (): ExitCounts => ({ configReads: 0, configWrites: 0, kicks: 0 });
  return { setup: none(), shared: none(), reporting: none(), ballooning: none(), other: none() };
}

/** What was counted between two readings. */
export function exitsBetween(before: ExitTable, after: ExitTable): ExitTable {
  return plusTimes(after, before, -1);
}

/** The exits of two tables together. */
export function addExits(a: ExitTable, b: ExitTable): ExitTable {
  return plusTimes(a, b, 1);
}

/** a + b × factor, count by count. */
function plusTimes(a: ExitTable, b: ExitTable, factor: 1 | -1): ExitTable {
  const of = (name: keyof ExitTable): ExitCounts => ({
    configReads: a[name].configReads + factor * b[name].configReads,
    configWrites: a[name].configWrites + factor * b[name].configWrites,
    kicks: a[name].kicks + factor * b[name].kicks,
  });
  return {
    setup: of('setup'),
    shared: of('shared'),
    reporting: of('reporting'),
    ballooning: of('ballooning'),
    other: of('other'),
  };
}

/** All of a table's exits of each kind. */
export function totalExits(table: ExitTable): ExitCounts {
  const total: ExitCounts = { configReads: 0, configWrites: 0, kicks: 0 };
  for (const counts of Object.values(table)) {
    total.configReads += counts.configReads;
    total.configWrites += counts.configWrites;
    total.kicks += counts.kicks;
  }
  return total;
}

if (EXIT_WORDS < KINDS * Object.keys(ExitFeature).length) {
  throw new Error('the control buffer has too few words for the exit counters');
}
