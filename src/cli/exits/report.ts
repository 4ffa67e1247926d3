import { addExits, type ExitTable, totalExits } from '../../balloon/exits.js';
import type { RequestDesign } from '../../balloon/request-interface.js';
import type { MachineReport, Spread } from '../../report/schema.js';
import { spreadOf } from '../../report/summary.js';
import { type BreakEven, breakEven, expectedExits, type PathExits } from './cost.js';
import type { Answer } from './measured-guest.js';
import {
  countFeatures,
  type Features,
  type Interrupt,
  type Mix,
  REQUEST_KINDS,
  type RequestKind,
} from './mixes.js';

/** What `--json` writes. */
export interface ExitsReport {
  readonly schema: 1;
  readonly kind: 'exits';
  readonly createdAt: string;
  readonly command: string;
  readonly machine: MachineReport;
  readonly seed: number;
  readonly runs: readonly ExitsRun[];
  /** Where each design becomes cheaper than those that read registers which nobody asked for, mix by mix. */
  readonly breakEven: readonly ComparedDesigns[];
}

/** One design against another. */
export interface ComparedDesigns extends BreakEven {
  readonly mix: Mix;
  readonly design: RequestDesign;
  readonly against: RequestDesign;
}

/** One mix of requests, answered by one design with one number of features. */
export interface ExitsRun {
  readonly mix: Mix;
  readonly design: RequestDesign;
  readonly features: number;
  readonly offered: Features;
  readonly interrupts: number;
  readonly requests: number;
  readonly requestsByKind: Readonly<Record<RequestKind, number>>;
  /** Everything that the device counted, by feature and kind; `shared` is the command register. */
  readonly exits: ExitTable;
  /** Of those, what it took to learn what is wanted: all config reads, and acknowledgements. */
  readonly path: PathExits;
  /** What that must have been, by {@link expectedExits}. */
  readonly expected: PathExits;
  /** Whether both are the same, interrupt by interrupt. */
  readonly agrees: boolean;
  /** Exits of the path, a request. */
  readonly perRequest: number;
  /** Exits of the path of interrupts that carried one request, by its kind; all of one kind cost the same, or it says so. */
  readonly byKind: Readonly<Partial<Record<RequestKind, Spread>>>;
  /** Writes of `actual`: the answer to a balloon request, whatever the design. */
  readonly actualWrites: number;
  /** Kicks, which depend on timing (VIRTIO_F_EVENT_IDX); null where there was nothing to kick for. */
  readonly kicks: { readonly aReport: Spread | null; readonly aResize: Spread | null };
  /** Ranges that a report put on the queue. */
  readonly rangesPerReport: Spread | null;
}

/** Counts the answers to the interrupts of one run. */
export function runOf(
  what: { readonly mix: Mix; readonly design: RequestDesign; readonly offered: Features },
  plan: readonly Interrupt[],
  answers: readonly Answer[],
): ExitsRun {
  const { mix, design, offered } = what;
  const measured = answers.map(({ exits }) => pathOf(exits));
  const expected = plan.map((interrupt) => expectedExits(design, offered, interrupt));
  const path = sumOf(measured);
  const requests = plan.flat();
  const spreadWhere = (
    holds: (interrupt: Interrupt) => boolean,
    value: (answer: Answer) => number,
  ): Spread | null => {
    const values = answers.filter((_, i) => holds(plan[i]!)).map(value);
    return values.length === 0 ? null : spreadOf(values);
  };
  const asks =
    (wanted: RequestKind) =>
    (interrupt: Interrupt): boolean =>
      interrupt.some(({ kind }) => kind === wanted);
  const byKind: Partial<Record<RequestKind, Spread>> = {};
  for (const kind of REQUEST_KINDS) {
    const spread = spreadWhere(
      (interrupt) => interrupt.length === 1 && asks(kind)(interrupt),
      ({ exits }) => totalOf(pathOf(exits)),
    );
    if (spread !== null) {
      byKind[kind] = spread;
    }
  }
  return {
    mix,
    design,
    features: countFeatures(offered),
    offered,
    interrupts: plan.length,
    requests: requests.length,
    requestsByKind: {
      balloon: requests.filter(({ kind }) => kind === 'balloon').length,
      'report-start': requests.filter(({ kind }) => kind === 'report-start').length,
      'report-stop': requests.filter(({ kind }) => kind === 'report-stop').length,
      future: requests.filter(({ kind }) => kind === 'future').length,
    },
    exits: answers.map(({ exits }) => exits).reduce(addExits),
    path,
    expected: sumOf(expected),
    agrees: measured.every(
      ({ reads, acknowledgements }, i) =>
        reads === expected[i]!.reads && acknowledgements === expected[i]!.acknowledgements,
    ),
    perRequest: totalOf(path) / requests.length,
    byKind,
    actualWrites: answers.reduce((sum, { exits }) => sum + exits.ballooning.configWrites, 0),
    kicks: {
      aReport: spreadWhere(asks('report-start'), ({ exits }) => exits.reporting.kicks),
      aResize: spreadWhere(asks('balloon'), ({ exits }) => exits.ballooning.kicks),
    },
    rangesPerReport: spreadWhere(asks('report-start'), ({ ranges }) => ranges),
  };
}

/** Exits a request against the number of features, of one mix and design. */
export function costsOf(
  runs: readonly ExitsRun[],
  mix: Mix,
  design: RequestDesign,
): ReadonlyMap<number, number> {
  return new Map(
    runs
      .filter((run) => run.mix === mix && run.design === design)
      .sort((a, b) => a.features - b.features)
      .map((run) => [run.features, run.perRequest]),
  );
}

/** The designs that the command register is held against: none of it, and what the mail argues against. */
export const OPPONENTS: readonly RequestDesign[] = ['polling', 'register-and-polling'];

/** Every design that was measured, against the {@link OPPONENTS} that were. */
export function breakEvens(runs: readonly ExitsRun[]): ComparedDesigns[] {
  const mixes = [...new Set(runs.map(({ mix }) => mix))];
  const designs = [...new Set(runs.map(({ design }) => design))];
  return mixes.flatMap((mix) =>
    designs.flatMap((design) =>
      OPPONENTS.filter((against) => against !== design && designs.includes(against)).map((against) => ({
        mix,
        design,
        against,
        ...breakEven(costsOf(runs, mix, design), costsOf(runs, mix, against)),
      })),
    ),
  );
}

/** The acknowledgement is the only write to the command register; `actual` is ballooning's. */
function pathOf(exits: ExitTable): PathExits {
  return { reads: totalExits(exits).configReads, acknowledgements: exits.shared.configWrites };
}

function totalOf({ reads, acknowledgements }: PathExits): number {
  return reads + acknowledgements;
}

function sumOf(paths: readonly PathExits[]): PathExits {
  return {
    reads: paths.reduce((sum, { reads }) => sum + reads, 0),
    acknowledgements: paths.reduce((sum, { acknowledgements }) => sum + acknowledgements, 0),
  };
}
