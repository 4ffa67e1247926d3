import type { RequestDesign } from '../../balloon/request-interface.js';
import { countFeatures, type Features, type Interrupt, type RequestKind } from './mixes.js';

/** Exits of the way from the config interrupt to the parameters, which is all that the designs differ in. */
export interface PathExits {
  readonly reads: number;
  readonly acknowledgements: number;
}

/** Registers that a request reads behind the command register: "REPORT_STOP" says all that there is to say. */
const PARAMETERS: Record<RequestKind, number> = {
  balloon: 1,
  'report-start': 1,
  'report-stop': 0,
  future: 1,
};

/** What answering one interrupt must cost, by the count of the registers that the design has to touch. */
export function expectedExits(design: RequestDesign, features: Features, interrupt: Interrupt): PathExits {
  const parameters = interrupt.reduce((sum, { kind }) => sum + PARAMETERS[kind], 0);
  const polled = countFeatures(features);
  switch (design) {
    case 'command-register':
      return { reads: 1 + parameters, acknowledgements: 1 };
    case 'read-to-clear':
      return { reads: 1 + parameters, acknowledgements: 0 };
    case 'polling':
      return { reads: polled, acknowledgements: 0 };
    case 'register-and-polling': {
      const balloon = interrupt.some(({ kind }) => kind === 'balloon') ? 1 : 0;
      return { reads: 1 + balloon + polled - Number(features.ballooning), acknowledgements: balloon };
    }
  }
}

/** Where a design becomes cheaper than another, out of the numbers of features that were measured. */
export interface BreakEven {
  /** Numbers of features at which both cost the same. */
  readonly ties: readonly number[];
  /** From this number of features on it is cheaper, always; null: it is not. */
  readonly cheaperFrom: number | null;
}

/** @param cost exits a request at each number of features, in ascending order of those; the other's likewise */
export function breakEven(cost: ReadonlyMap<number, number>, other: ReadonlyMap<number, number>): BreakEven {
  const counts = [...cost.keys()].filter((count) => other.has(count));
  const difference = (count: number): number => cost.get(count)! - other.get(count)!;
  const lastNotCheaper = counts.findLastIndex((count) => difference(count) >= 0);
  return {
    ties: counts.filter((count) => difference(count) === 0),
    cheaperFrom: counts[lastNotCheaper + 1] ?? null,
  };
}
