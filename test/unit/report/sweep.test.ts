import { describe, expect, it } from 'vitest';
import { SWEEP_NAMES, SWEEPS, type SweepName } from '../../../src/cli/bench/sweeps.js';
import { MEASURES } from '../../../src/report/measures.js';
import { BASELINES, type BenchReport, type BenchRun } from '../../../src/report/schema.js';
import { summarise } from '../../../src/report/summary.js';
import { sweepCharts, sweepTable } from '../../../src/report/sweep.js';
import { reportText } from '../../../src/report/text.js';
import { planRequest, reportFor } from '../../support/reports.js';

/** A sweep's report whose runs are as `change` makes them. */
function sweepReport(
  name: SweepName,
  values: readonly string[],
  change: (run: BenchRun) => Partial<BenchRun> = () => ({}),
  asked: Parameters<typeof planRequest>[0] = {},
): BenchReport {
  const report = reportFor(planRequest({ runs: 1, ...asked, sweep: name, values }));
  const runs = report.runs.map((run) => ({ ...run, ...change(run) }));
  return { ...report, runs, summary: summarise(runs) };
}

function charts(report: BenchReport): string {
  return sweepCharts(report, report.sweep!)!;
}

/** Where the marks of the first line of a chart are, in pixels. */
function marks(svg: string, title: string): { x: number; y: number }[] {
  const chart = svg.slice(svg.indexOf(`>${title}</title>`));
  const line = /<g class="s0"><title>.*?<\/g>/.exec(chart)![0];
  return [...line.matchAll(/<circle cx="([\d.]+)" cy="([\d.]+)"/g)].map(([, x, y]) => ({
    x: Number(x),
    y: Number(y),
  }));
}

describe('the summary of a sweep', () => {
  it('has a row for each value, compared with the `none` of its own groups', () => {
    // The machine became twice as slow between the two groups: 100 and 40 ms, then 200 and 80.
    const report = sweepReport(
      'min-order',
      ['0', '1', '2', '3', '4', '5'],
      ({ point, 'total-time': ms }) => ({
        'total-time': ms * (point.group + 1),
      }),
    );
    const rows = report.summary.map(({ value, baseline, n, timeSaved }) => [value, baseline, n, timeSaved]);
    expect(rows).toEqual([
      [null, 'none', 2, null],
      ...['0', '1', '2', '3', '4', '5'].map((value) => [value, 'hints', 1, 0.6]),
    ]);
  });

  it('a guest made for each value is compared with itself', () => {
    const report = sweepReport('guest-size', ['16MiB', '32MiB'], ({ point, baseline }) => ({
      'total-time': baseline === 'none' ? 100 : 50 - 25 * point.group,
    }));
    expect(
      report.summary.map(({ guest, series, value, timeSaved }) => [guest, series, value, timeSaved]),
    ).toEqual([
      ['synthetic-16m', 'made-up', '16MiB', null],
      ['synthetic-16m', 'made-up', '16MiB', 0.5],
      ['synthetic-32m', 'made-up', '32MiB', null],
      ['synthetic-32m', 'made-up', '32MiB', 0.75],
    ]);
  });

  it('has no time to the stop sign where no report ended', () => {
    const report = sweepReport('min-order', ['0'], ({ hints }) => ({
      hints: { ...hints, sessions: hints.sessions.map((session) => ({ ...session, 'to-stop': null })) },
    }));
    expect(report.summary.map(({ hintTime }) => hintTime)).toEqual([null, null]);
    expect(charts(report)).not.toContain('Request to stop sign');
  });
});

describe('the table of a sweep', () => {
  it('has a row for each guest and value, and the measures of the sweep', () => {
    const report = sweepReport('min-order', ['0', '10'], () => ({}), { guestCount: 2 });
    const lines = sweepTable(report, report.sweep!).split('\n');
    expect(lines[1]).toMatch(
      /guest +│ smallest order │ baseline │ +time │ +saved │ ranges │ to the stop sign │ sent, MiB │ verified/,
    );
    expect(lines.filter((line) => line.includes('│ hints '))).toHaveLength(4);
    expect(lines.find((line) => line.includes('synthetic-17m'))).toMatch(
      /any │ none +│ +100 ms │ +│ +│ +│ +16 │ yes/,
    );
    expect(lines.find((line) => / 10 │ hints/.test(line))).toMatch(
      /40\.0 ms │ 60\.0 % │ +256 │ +3\.0 ms │ +16 │ yes/,
    );
  });

  it('says under it how it was measured, but not what was varied', () => {
    const text = reportText(sweepReport('link', ['1gbit']));
    expect(text).toContain('schedule adaptive, smallest order 0');
    expect(text).not.toMatch(/link 1/);
    expect(text).toContain('A processor, 2 cores');
  });

  it('a run that was not verified stands out', () => {
    const report = sweepReport('min-order', ['0', '1'], ({ point, verified }) =>
      point.value === '1' ? { verified: { ...verified, pagesDifferent: 1 } } : {},
    );
    expect(sweepTable(report, report.sweep!).match(/│ NO /g)).toHaveLength(1);
  });
});

describe('the charts of a sweep', () => {
  it.each(SWEEP_NAMES.map((name) => ({ name })))(
    '$name: one for each of its measures, with all its values',
    ({ name }) => {
      const svg = charts(sweepReport(name, SWEEPS[name].values));
      for (const measure of SWEEPS[name].measures) {
        const { title } = MEASURES[measure];
        expect(marks(svg, `${title[0]!.toUpperCase()}${title.slice(1)}`)).toHaveLength(
          SWEEPS[name].values.length,
        );
      }
      expect(svg.match(/<svg /g)).toHaveLength(SWEEPS[name].measures.length + 1);
      expect(svg.match(/<\/svg>/g)).toHaveLength(SWEEPS[name].measures.length + 1);
      expect(svg).toContain('lacuna bench --quiet'); // the command, under them
      expect(svg).not.toMatch(/NaN|Infinity|undefined/);
    },
  );

  it('are drawn in the order of the axis, whatever the order of the values', () => {
    const svg = charts(sweepReport('min-order', ['10', '0', '5']));
    const xs = marks(svg, 'Time saved').map(({ x }) => x);
    expect(xs).toEqual([...xs].sort((a, b) => a - b));
    expect(xs[1]! - xs[0]!).toBeCloseTo(xs[2]! - xs[1]!, 1);
  });

  it('have even steps where values are no numbers, each with its label', () => {
    const svg = charts(sweepReport('link', ['1gbit', '10gbit', 'unlimited']));
    const xs = marks(svg, 'Time saved').map(({ x }) => x);
    expect(xs[1]! - xs[0]!).toBeCloseTo(xs[2]! - xs[1]!, 1);
    expect(svg).toContain('>unlimited</text>');
  });

  it('show counts on a logarithmic axis only if none is 0', () => {
    const ranges = (counts: number[]): number[] =>
      marks(
        charts(
          sweepReport('min-order', ['0', '1', '2'], ({ point, hints }) => ({
            hints: { ...hints, ranges: counts[Number(point.value)]! },
          })),
        ),
        'Free ranges reported',
      ).map(({ y }) => y);
    const log = ranges([1000, 100, 10]);
    expect(log[1]! - log[0]!).toBeCloseTo(log[2]! - log[1]!, 1);
    const linear = ranges([1000, 500, 0]);
    expect(linear[1]! - linear[0]!).toBeCloseTo(linear[2]! - linear[1]!, 1);
  });

  it('name lines by guest, and by baseline where there are several', () => {
    expect(charts(sweepReport('min-order', ['0']))).toContain('<title>synthetic-16m</title>');
    const both = charts(sweepReport('min-order', ['0'], () => ({}), { baselines: [...BASELINES] }));
    expect(both).toContain('<title>synthetic-16m, hints</title>');
    expect(both).toContain('<title>synthetic-16m, both</title>');
    expect(both).not.toContain('synthetic-16m, none'); // it has no place on this axis
  });

  it('are several where there are more lines than can be told apart', () => {
    const svg = charts(sweepReport('min-order', ['0', '1'], () => ({}), { guestCount: 8 }));
    expect(svg).toContain('>Time saved (1 of 2)</title>');
    expect(svg).toContain('>Time saved (2 of 2)</title>');
  });

  it('have the whole command under them, however long it is', () => {
    const report = sweepReport('min-order', ['0', '1']);
    const captionOf = (svg: string): string[] =>
      [
        ...svg
          .slice(svg.lastIndexOf('<text class="title"'))
          .matchAll(/<text class="tick" x="24" y="\d+">(.*?)<\/text>/g),
      ].map(([, text]) => text!);
    const before = captionOf(charts(report)).length;
    const command = `lacuna bench --guest ${'a-capture-with-a-long-name '.repeat(20)}--quiet`;
    const lines = captionOf(charts({ ...report, command }));
    expect(lines.length).toBeGreaterThan(before + 2);
    expect(lines.join(' ')).toContain(command);
    expect(Math.max(...lines.map(({ length }) => length))).toBeLessThan(160);
  });

  it('are none where there is nothing to draw', () => {
    const report = sweepReport('min-order', ['0'], () => ({ status: 'cancelled' }));
    expect(sweepCharts(report, report.sweep!)).toBeUndefined();
    expect(reportText(report)).toBe('');
  });
});
