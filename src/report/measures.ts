import { MIB, PAGE_SIZE } from '../memory/page.js';
import { formatMs } from './format.js';
import type { BenchRun, MeasureName } from './schema.js';
import { hintTimeOf } from './summary.js';

/** A figure of a run that a sweep shows against its axis. */
export interface Measure {
  /** Of its chart. */
  readonly title: string;
  /** Of its column in a table, with the unit unless {@link format} has it. */
  readonly head: string;
  readonly unit: string;
  /** Whose lines are drawn: every baseline's, all but `none`'s, or only those with hints. */
  readonly of: 'all' | 'compared' | 'hinted';
  /** `log` where values lie orders of magnitude apart; drawn so if all are above 0. */
  readonly scale: 'linear' | 'log';
  /** In {@link unit}; NaN: this run has none. `plainMs`: the median time of `none` beside it. */
  readonly value: (run: BenchRun, plainMs: number) => number;
  readonly format: (value: number) => string;
}

const whole = (value: number): string => value.toFixed(0);
const tenths = (value: number): string => value.toFixed(1);

/** Everything that a sweep can show. */
export const MEASURES: Readonly<Record<MeasureName, Measure>> = {
  saved: {
    title: 'time saved',
    head: 'saved',
    unit: '%',
    of: 'compared',
    scale: 'linear',
    value: (run, plainMs) => (1 - run['total-time'] / plainMs) * 100,
    format: (value) => `${tenths(value)} %`,
  },
  time: {
    title: 'time',
    head: 'time',
    unit: 's',
    of: 'all',
    scale: 'linear',
    value: (run) => run['total-time'] / 1000,
    format: (value) => formatMs(value * 1000),
  },
  downtime: {
    title: 'downtime',
    head: 'downtime',
    unit: 'ms',
    of: 'all',
    scale: 'linear',
    value: (run) => run.downtime ?? Number.NaN,
    format: formatMs,
  },
  sent: {
    title: 'sent',
    head: 'sent, MiB',
    unit: 'MiB',
    of: 'all',
    scale: 'linear',
    value: (run) => run.ram.transferred / MIB,
    format: whole,
  },
  ranges: {
    title: 'free ranges reported',
    head: 'ranges',
    unit: '',
    of: 'hinted',
    scale: 'log',
    value: (run) => run.hints.ranges,
    format: whole,
  },
  'hint-time': {
    title: 'request to stop sign',
    head: 'to the stop sign',
    unit: 'ms',
    of: 'hinted',
    scale: 'linear',
    value: hintTimeOf,
    format: formatMs,
  },
  'in-vain': {
    title: 'sent in vain',
    head: 'in vain',
    unit: 'pages',
    of: 'hinted',
    scale: 'linear',
    value: (run) => run.hints.sentInVain,
    format: whole,
  },
  dropped: {
    title: 'not reported, ring full',
    head: 'dropped, pages',
    unit: 'pages',
    of: 'hinted',
    scale: 'linear',
    value: (run) => run.hints.ringFull,
    format: whole,
  },
  written: {
    title: 'written by the guest',
    head: 'written, MB/s',
    unit: 'MB/s',
    of: 'all',
    scale: 'linear',
    value: (run) => (run.guestWork.pagesPerSecond * PAGE_SIZE) / 1e6,
    format: whole,
  },
};
