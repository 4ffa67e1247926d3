import type { RequestInterface } from '../../balloon/request-interface.js';
import { MOST_FUTURE_FEATURES } from '../../spec/command-register.js';
import { Random } from '../stress/random.js';

/** What a host can ask for. `report-stop` is what ends a report, whether or not it had ended by itself. */
export const REQUEST_KINDS = ['balloon', 'report-start', 'report-stop', 'future'] as const;
export type RequestKind = (typeof REQUEST_KINDS)[number];

/** One request; `feature` says which of the features to come, and is 0 for the others. */
export interface Request {
  readonly kind: RequestKind;
  readonly feature: number;
}

/** Requests that are pending together when the guest takes one config interrupt: one a feature at the most. */
export type Interrupt = readonly Request[];

/** Features of a device: reporting, ballooning, and those to come. */
export type Features = Omit<RequestInterface, 'design'>;

export const MOST_FEATURES: number = 2 + MOST_FUTURE_FEATURES;

/** In what proportion, and how many at a time, requests come. */
export const MIXES = ['balloon', 'reports', 'round-robin', 'mail', 'random', 'pairs', 'all-at-once'] as const;
export type Mix = (typeof MIXES)[number];

/** What each mix is, for tables and help. */
export const MIX_DESCRIPTIONS: Record<Mix, string> = {
  balloon: 'the balloon is resized, and nothing else is asked for',
  reports: 'reports are started and stopped in turn',
  'round-robin': 'every feature in turn',
  mail: "the mail's case: 100 balloon requests to one report",
  random: 'any feature, each as likely as the others',
  pairs: 'two requests of different features, any two, in one interrupt',
  'all-at-once': 'a request of every feature in one interrupt',
};

/** Balloon requests to one report in the mail's case: "sent frequently". */
const MAIL_BALLOONS = 100;

/** The fewest features that a mix needs. */
export function leastFeatures(mix: Mix): number {
  return mix === 'mail' || mix === 'pairs' ? 2 : 1;
}

/** Which features a device with `count` of them has: ballooning first, unless the mix is of reports alone. */
export function featuresOf(mix: Mix, count: number): Features {
  return {
    ballooning: count > 1 || mix !== 'reports',
    reporting: count > 1 || mix === 'reports',
    futureFeatures: Math.max(0, count - 2),
  };
}

/** How many features those are. */
export function countFeatures({ ballooning, reporting, futureFeatures }: Features): number {
  return Number(ballooning) + Number(reporting) + futureFeatures;
}

/**
 * The requests of a mix to a device with `count` features: at least `requests`, and as many more as its cycle takes, so
 * that a mean over them is the mix's own. The same for every design, and for the same seed.
 */
export function planOf(mix: Mix, count: number, requests: number, seed: number): Interrupt[] {
  const random = Random.ofCase(seed, count);
  const requestsOf = requestMaker(featuresOf(mix, count));
  const plan: Interrupt[] = [];
  let planned = 0;
  while (planned < requests) {
    for (const interrupt of cycleOf(mix, count, random, requestsOf)) {
      plan.push(interrupt);
      planned += interrupt.length;
    }
  }
  return plan;
}

/** A request of the `i`th feature; a report is stopped by every second one. */
type RequestMaker = (i: number) => Request;

function requestMaker({ ballooning, reporting }: Features): RequestMaker {
  let open = false;
  const mail = [...(ballooning ? ['balloon' as const] : []), ...(reporting ? ['report' as const] : [])];
  return (i) => {
    const feature = mail[i];
    if (feature === 'report') {
      open = !open;
      return { kind: open ? 'report-start' : 'report-stop', feature: 0 };
    }
    return feature === 'balloon'
      ? { kind: 'balloon', feature: 0 }
      : { kind: 'future', feature: i - mail.length };
  };
}

function cycleOf(mix: Mix, count: number, random: Random, request: RequestMaker): Interrupt[] {
  const BALLOON = 0;
  const REPORT = 1;
  const all = Array.from({ length: count }, (_, i) => i);
  switch (mix) {
    case 'balloon':
      return [[request(BALLOON)]];
    case 'reports':
      return [[request(count > 1 ? REPORT : 0)], [request(count > 1 ? REPORT : 0)]];
    case 'round-robin':
      // A report is two requests: its start, and its end in the next turn.
      return [...all, ...all].map((i) => [request(i)]);
    case 'mail':
      return Array.from({ length: MAIL_BALLOONS + 2 }, (_, i) => [
        request(i === MAIL_BALLOONS / 2 || i === MAIL_BALLOONS / 2 + 1 ? REPORT : BALLOON),
      ]);
    case 'random':
      return [[request(random.whole(0, count - 1))]];
    case 'pairs': {
      const first = random.whole(0, count - 1);
      const second = (first + random.whole(1, count - 1)) % count;
      return [[request(first), request(second)]];
    }
    case 'all-at-once':
      return [all.map(request), all.map(request)];
  }
}
