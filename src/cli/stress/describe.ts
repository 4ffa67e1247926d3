import { MIB } from '../../memory/page.js';
import { describeWorkload } from '../workload-option.js';
import type { GuestPlan, HopPlan, LinkMoment } from './plan.js';

/** A guest's plan as people read it. */
export function describeGuest(plan: GuestPlan): string {
  const { image } = plan;
  const memory =
    image.from === 'synthetic'
      ? `${image.freeShare * 100} % free in runs of ${image.freeRunPages} pages`
      : image.from === 'capture'
        ? `a piece of ${image.capture} from ${(image.at * 100).toFixed(0)} %`
        : `all of ${image.capture}`;
  return (
    `guest: ${plan.memoryBytes / MIB} MiB, ${memory}, free memory ${plan.freeMemory}, workload ${describeWorkload(plan.workload)}, ` +
    `${plan.dialect}, reports by ${plan.reportMode} from order ${plan.minOrder}, ring of ${plan.ringSize}${plan.eventIdx ? ' with EVENT_IDX' : ''}, ` +
    `waits ${plan.ringDeadlineMs} ms for room in it, seed ${plan.seed}` +
    (plan.initOnAlloc ? ', zeroes what it allocates' : '') +
    (plan.pagePoison === null ? '' : `, fills what it frees with ${plan.pagePoison}`)
  );
}

function describeMoment(moment: LinkMoment): string {
  if ('afterBytes' in moment) {
    return `after ${moment.afterBytes} bytes`;
  }
  if ('atDestination' in moment) {
    return `at the destination's "${moment.atDestination}" no. ${moment.nth}`;
  }
  return 'event' in moment ? `at "${moment.event}" no. ${moment.nth}` : `after ${moment.afterMs} ms`;
}

/** What a hop does wrong, a phrase for each fault. */
function describeFaults({ faults }: HopPlan): string[] {
  const { driver, balloon, cancels, transport, destinationDies, refuses } = faults;
  const { cuts, silences, restarts, hostilePeers } = faults;
  return [
    ...(driver === undefined
      ? []
      : [
          `driver: ${driver.fault.name}, amount ${driver.fault.amount}, ${driver.fault.ms} ms, ` +
            (driver.at === 'before' ? 'from the start' : describeMoment(driver.at)),
        ]),
    ...(balloon ?? []).map(({ at, pages }) => `balloon to ${pages} pages ${describeMoment(at)}`),
    ...(cancels ?? []).map((at) => `cancel ${describeMoment(at)}`),
    ...(transport?.failAtFrame === undefined ? [] : [`the link breaks at frame ${transport.failAtFrame}`]),
    ...(transport?.stall === undefined
      ? []
      : [`no room from frame ${transport.stall.atFrame} on for ${transport.stall.ms} ms`]),
    ...(transport?.pieces === undefined ? [] : [`runs in up to ${transport.pieces} pieces`]),
    ...(transport?.loses === undefined ? [] : [`"${transport.loses}" is lost`]),
    ...(destinationDies === undefined ? [] : [`the destination dies ${describeMoment(destinationDies)}`]),
    ...(refuses === undefined ? [] : [`the destination refuses: ${refuses}`]),
    ...(cuts ?? []).map(
      ({ at, withReset, refuseMs }) =>
        `the link is cut ${describeMoment(at)}${withReset ? ' by a reset' : ''}, ` +
        (refuseMs === Number.POSITIVE_INFINITY ? 'for good' : `for ${refuseMs} ms`),
    ),
    ...(silences ?? []).map(
      ({ at, ms, kind, directions }) =>
        `the link ${kind} what goes ${directions.join(' and ')} for ${ms} ms, ${describeMoment(at)}`,
    ),
    ...(restarts ?? []).map((at) => `another destination takes its place ${describeMoment(at)}`),
    ...(hostilePeers === undefined
      ? []
      : [`${hostilePeers.count} others connect, ${describeMoment(hostilePeers.at)}`]),
  ];
}

function describeNetwork({ network }: HopPlan): string {
  if (network === undefined) {
    return '';
  }
  const { streams, compression, tls, silenceMs, retry } = network;
  return (
    ` by ${tls ? 'TLS' : 'TCP'} over ${streams} streams, compression ${compression}, ` +
    `lost when silent for ${silenceMs} ms, tried again after ${retry.firstMs} to ${retry.mostMs} ms`
  );
}

/** A hop's plan as people read it; `hop` from 1. */
export function describeHop(plan: HopPlan, hop: number): string {
  const options = Object.entries(plan.options).map(([name, value]) => `${name} ${value}`);
  const faults = describeFaults(plan);
  return `migration ${hop}${describeNetwork(plan)}: ${faults.length === 0 ? 'no faults' : faults.join('; ')} (${options.join(', ')})`;
}
