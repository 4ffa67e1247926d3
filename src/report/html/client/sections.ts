import { MIB, PAGE_SIZE } from '../../../memory/page.js';
import { formatMib, formatMs, formatShare } from '../../format.js';
import {
  BASELINES,
  type Baseline,
  type BenchReport,
  type RunReport,
  type SummaryRow,
  type SweepReport,
} from '../../schema.js';
import { chartBox, type Moment, moments, whiskers } from './charts.js';
import { chooser, element, figures, numbersTable } from './dom.js';
import { decodeMap, PageMap } from './page-map.js';

const BASELINE_NAMES: Readonly<Record<Baseline, string>> = {
  none: 'every page sent',
  zero: 'zero pages detected',
  hints: 'free pages reported',
  both: 'both',
};

/** The guest of a row or run, and what its free memory held. */
function guestOf({ guest, freeMemory }: { guest: string; freeMemory: string }): string {
  return freeMemory === 'captured' ? guest : `${guest}, free memory ${freeMemory}`;
}

function section(title: string, text: string, ...content: readonly HTMLElement[]): HTMLElement {
  return element('section', {}, element('h2', {}, title), element('p', {}, text), ...content);
}

/** Time by baseline, with the spread. */
export function baselineSection({ summary }: BenchReport): HTMLElement {
  const guests = [...new Set(summary.map(guestOf))];
  const baselines = BASELINES.filter((name) => summary.some(({ baseline }) => baseline === name));
  const rowOf = (guest: string, baseline: Baseline): SummaryRow | undefined =>
    summary.find((row) => guestOf(row) === guest && row.baseline === baseline);
  const times = (baseline: Baseline): (SummaryRow['total-time'] | undefined)[] =>
    guests.map((guest) => rowOf(guest, baseline)?.['total-time']);
  const spoken = summary
    .map((row) => `${guestOf(row)}, ${BASELINE_NAMES[row.baseline]}: ${formatMs(row['total-time'].median)}`)
    .join('; ');
  const chart = chartBox(`Total time of a migration by baseline. ${spoken}.`, 320, (colours) => ({
    type: 'bar',
    data: {
      labels: guests,
      datasets: baselines.map((baseline) => ({
        label: BASELINE_NAMES[baseline],
        data: times(baseline).map((time) => time?.median ?? Number.NaN),
        backgroundColor: colours.baselines[baseline],
      })),
    },
    options: {
      scales: { y: { beginAtZero: true, title: { display: true, text: 'total time, ms' } } },
      plugins: {
        tooltip: {
          callbacks: {
            label: ({ datasetIndex, dataIndex }): string => {
              const row = rowOf(guests[dataIndex]!, baselines[datasetIndex]!);
              const time = row?.['total-time'];
              return row === undefined || time === undefined
                ? ''
                : `${BASELINE_NAMES[row.baseline]}: ${formatMs(time.median)} (${formatMs(time.min)}–${formatMs(time.max)}, n = ${row.n})`;
            },
          },
        },
      },
    },
    plugins: [
      whiskers(
        baselines.map((baseline) => times(baseline)),
        colours.ink,
      ),
    ],
  }));
  return section(
    'Time by baseline',
    'From the request to migrate until the guest runs at its destination: the median of n migrations, and the least and the most of them.',
    chart,
    figures(
      numbersTable(
        'Time by baseline',
        [
          'guest',
          'baseline',
          'n',
          'median',
          'least',
          'most',
          'saved',
          'downtime',
          'sent, MiB',
          'left behind, MiB',
          'in vain, pages',
        ],
        summary.map((row) => [
          guestOf(row),
          row.baseline,
          String(row.n),
          formatMs(row['total-time'].median),
          formatMs(row['total-time'].min),
          formatMs(row['total-time'].max),
          row.timeSaved === null ? '' : formatShare(row.timeSaved),
          formatMs(row.downtime.median),
          formatMib(row.transferred.median),
          formatMib(row.skippedPages.median * PAGE_SIZE),
          String(row.sentInVain.median),
        ]),
      ),
    ),
  );
}

/** What a sweep has varied, and what came of it: the picture that `--svg` writes. */
export function curvesSection({ axis, values, measures }: SweepReport, source: string): HTMLElement {
  return section(
    `Against ${axis.label}`,
    `The same migrations at ${values.map(({ label }) => label).join(', ')}: medians, and bands from the least to the most.`,
    element('img', {
      class: 'curves',
      src: source,
      alt: `Charts of ${measures.join(', ')} against ${axis.label}. Their numbers are in the table below.`,
    }),
  );
}

/** Runs of which one can be looked at closely: the middle one of those that are alike, where the map was kept. */
export function detailSection(runs: readonly RunReport[]): HTMLElement {
  const kept = runs.filter(({ pages }) => pages.map !== null);
  const shown = kept.length > 0 ? kept : runs;
  const place = element('div', {});
  const label = (run: RunReport): string => `${guestOf(run)}: ${BASELINE_NAMES[run.baseline]}`;
  const choose = (index: number): void => {
    const run = shown[index]!;
    place.replaceChildren(roundsPart(run), mapPart(run), timelinePart(run));
  };
  // What hints do is seen best where there are some.
  const first = Math.max(
    0,
    shown.findIndex(({ baseline }) => baseline === 'both'),
  );
  const list = chooser('The migration of', shown.map(label), choose);
  list.querySelector('select')!.selectedIndex = first;
  choose(first);
  return section(
    'One migration, closely',
    'The one in the middle, by time, of those that are alike.',
    element('p', { class: 'choose' }, list),
    place,
  );
}

function part(title: string, text: string, ...content: readonly HTMLElement[]): HTMLElement {
  return element('section', { class: 'part' }, element('h3', {}, title), element('p', {}, text), ...content);
}

function roundsPart({ rounds }: RunReport): HTMLElement {
  const ways = [
    ['sent', 'sent', ({ sent }) => sent],
    ['zero', 'zero: no contents', ({ zero }) => zero],
    ['filled', 'filled', ({ filled }) => filled],
    ['skipped', 'left out by a hint', ({ skipped }) => skipped],
    ['resent', 'left for the next round', ({ carried, cancelled }) => carried + cancelled],
  ] as const satisfies readonly (readonly [string, string, (round: RunReport['rounds'][number]) => number])[];
  const used = ways.filter(([, , count]) => rounds.some((round) => count(round) > 0));
  const labels = rounds.map((round) => [
    round.final ? 'last round' : `round ${round.round}`,
    `${round.pending.toLocaleString('en')} pages`,
    formatMs(round.ms),
  ]);
  const chart = chartBox(
    `What became of the pages, round by round. ${labels.map((lines) => lines.join(', ')).join('; ')}.`,
    90 + rounds.length * 58,
    (colours) => ({
      type: 'bar',
      data: {
        labels,
        datasets: used.map(([fate, label, count]) => ({
          label,
          data: rounds.map((round) => (round.pending === 0 ? 0 : (100 * count(round)) / round.pending)),
          backgroundColor: colours.fates[fate],
          borderColor: colours.ink,
          borderWidth: fate === 'skipped' ? 1 : 0,
        })),
      },
      options: {
        indexAxis: 'y',
        scales: {
          x: { stacked: true, max: 100, title: { display: true, text: '% of the pages of the round' } },
          y: { stacked: true },
        },
        plugins: {
          tooltip: {
            callbacks: {
              label: ({ datasetIndex, dataIndex }): string => {
                const [, label, count] = used[datasetIndex]!;
                return `${label}: ${count(rounds[dataIndex]!).toLocaleString('en')} pages`;
              },
            },
          },
        },
      },
    }),
  );
  return part(
    'What became of the pages, round by round',
    'Every page that was to be sent when a round began went exactly one of these ways.',
    chart,
    figures(
      numbersTable(
        'Rounds',
        [
          'round',
          'start',
          'time',
          'pages to send',
          'sent',
          'zero',
          'filled',
          'left out',
          'to the next round',
          'cancelled',
          'MiB',
        ],
        rounds.map((round) => [
          round.final ? `${round.round}, guest stopped` : String(round.round),
          formatMs(round.start),
          formatMs(round.ms),
          ...[
            round.pending,
            round.sent,
            round.zero,
            round.filled,
            round.skipped,
            round.carried,
            round.cancelled,
          ].map(String),
          formatMib(round.bytes),
        ]),
      ),
    ),
  );
}

function mapPart(run: RunReport): HTMLElement {
  const { map, pfnSpan, counts } = run.pages;
  const place = element('div', {}, 'Reading the map …');
  const text =
    'A row is 4 MiB, a point one page (of 4 KiB) or, from afar, the mixture of its pages. Pick out a fate to see it from any distance.';
  if (map === null) {
    place.replaceChildren('This report has no map of memory: it would have grown too large.');
  } else {
    decodeMap(map, pfnSpan).then(
      (fates) => place.replaceChildren(new PageMap(guestOf(run), fates, counts).node),
      (thrown: unknown) => place.replaceChildren(`The map can't be read: ${String(thrown)}`),
    );
  }
  return part(
    "The guest's memory",
    text,
    place,
    figures(
      numbersTable(
        'Pages by fate',
        ['fate', 'pages', 'MiB'],
        Object.entries(counts).map(([fate, pages]) => [fate, String(pages), formatMib(pages * PAGE_SIZE)]),
      ),
    ),
  );
}

/** What asks for a report, in the words of each dialect. */
const REQUEST = {
  'command-register': 'REPORT_START',
  virtio: 'free_page_hint_cmd_id',
} as const satisfies Record<RunReport['dialect'], string>;

/** What happened, in words and in order. */
function happenings(run: RunReport): Moment[] {
  const list: Moment[] = [];
  const { sessions } = run.hints;
  for (const session of sessions) {
    const at = (offset: number | null, label: string): void => {
      if (offset !== null) {
        list.push({ x: session.requested + offset, label });
      }
    };
    at(0, `${REQUEST[run.dialect]}: free pages asked for, id ${session.id}`);
    at(session['to-start'], `the guest has begun: its id is on the queue`);
    at(session['to-first-range'], 'the first free range');
    at(
      session['to-stop'],
      `0, the stop sign: ${session.ranges.toLocaleString('en')} ranges, no more to come`,
    );
  }
  for (const { ms, type, round, share = 0 } of run.timeline.events) {
    switch (type) {
      case 'throttled':
        list.push({ x: ms, label: `the guest stands still ${formatShare(share)} of the time: throttled` });
        break;
      case 'round-end':
        list.push({ x: ms, label: `round ${round} has ended` });
        break;
      case 'session-expired':
        list.push({ x: ms, label: 'a deadline has passed: no more hints are waited for' });
        break;
      case 'lost':
        list.push({ x: ms, label: 'the link broke' });
        break;
      case 'restored':
        list.push({ x: ms, label: 'the link is there again' });
        break;
      case 'stopped':
        list.push({ x: ms, label: 'the guest is stopped' });
        break;
      case 'committed':
        list.push({ x: ms, label: 'everything has arrived: the destination may start the guest' });
        break;
      case 'unconfirmed':
        list.push({ x: ms, label: 'the commit was not answered yet' });
        break;
      case 'unknown-migration':
        list.push({ x: ms, label: 'the destination knows nothing of this migration' });
        break;
      case 'completed':
        list.push({ x: ms, label: 'the guest runs at the destination' });
        break;
      case 'cancelled':
      case 'failed':
        list.push({ x: ms, label: `${type}: the guest goes on at the source` });
        break;
      case 'started':
      case 'round':
      case 'session-issued':
      case 'session-started':
      case 'session-done':
      case 'stopping':
      case 'ready':
        break;
    }
  }
  return list.sort((a, b) => a.x - b.x);
}

function timelinePart(run: RunReport): HTMLElement {
  const list = happenings(run);
  const { samples } = run.timeline;
  const place = element('div', {});
  const session = run.hints.sessions[0];
  const draw = (from: number, to: number): void => {
    const within = samples.filter(
      ([ms], i) => (samples[i + 1]?.[0] ?? ms) >= from && (samples[i - 1]?.[0] ?? ms) <= to,
    );
    place.replaceChildren(
      chartBox(
        `Bytes on the link in time. ${list.map(({ x, label }) => `${formatMs(x)}: ${label}`).join('; ')}.`,
        360,
        (colours) => ({
          type: 'line',
          data: {
            datasets: [
              {
                label: 'sent, MiB',
                data: within.map(([ms, bytes]) => ({ x: ms, y: bytes / MIB })),
                borderColor: colours.baselines.zero,
                backgroundColor: colours.baselines.zero,
                pointRadius: 0,
                borderWidth: 2,
              },
              {
                label: 'left out by hints, MiB',
                data: within.map(([ms, , pages]) => ({ x: ms, y: (pages * PAGE_SIZE) / MIB })),
                borderColor: colours.baselines.both,
                backgroundColor: colours.baselines.both,
                pointRadius: 0,
                borderWidth: 2,
                stepped: true,
              },
            ],
          },
          options: {
            parsing: false,
            layout: { padding: { top: 52, right: 8 } }, // for the numbers of moments
            interaction: { mode: 'nearest', axis: 'x', intersect: false },
            scales: {
              x: {
                type: 'linear',
                min: from,
                max: to,
                ticks: { includeBounds: false },
                title: { display: true, text: 'ms since the request to migrate' },
              },
              y: { beginAtZero: true, title: { display: true, text: 'MiB' } },
            },
            plugins: { legend: { position: 'bottom' } },
          },
          plugins: [moments(list, colours.ink)],
        }),
      ),
    );
  };
  const end = run['total-time'];
  const reportEnd =
    session === undefined
      ? end
      : session.requested + (session['to-stop'] ?? session['to-close'] ?? end) * 1.15;
  draw(0, end);
  const views = session === undefined ? ['the whole migration'] : ['the whole migration', 'the report'];
  return part(
    'The link, and the hint session',
    'Bytes on the link, and pages that need not go over it, against time. The numbered lines are what happened:',
    element(
      'ol',
      { class: 'moments' },
      ...list.map(({ x, label }) => element('li', {}, element('b', {}, formatMs(x)), ` ${label}`)),
    ),
    element(
      'p',
      { class: 'choose' },
      chooser('Show', views, (index) =>
        draw(index === 0 ? 0 : session!.requested, index === 0 ? end : reportEnd),
      ),
    ),
    place,
    figures(
      numbersTable(
        'Samples',
        ['ms', 'bytes sent', 'pages left out'],
        samples.map(([ms, bytes, pages]) => [ms.toFixed(2), String(bytes), String(pages)]),
      ),
    ),
  );
}

/** What each run was and came to. */
export function numbersSection({ runs, sweep }: BenchReport): HTMLElement {
  return section(
    'Every migration',
    'Options and results of each; all fields are in the JSON below, whose names follow QEMU’s query-migrate where they mean the same.',
    figures(
      numbersTable(
        'Migrations',
        [
          'guest',
          ...(sweep === null ? [] : [sweep.axis.label]),
          'baseline',
          'status',
          'schedule',
          'smallest order',
          'link',
          'workload',
          'total-time',
          'downtime',
          'throttled, %',
          'sent, MiB',
          'skipped',
          'zero',
          'ranges',
          'to stop',
          'exits',
          'event loop p99',
          'compared',
          'different',
          'self-check',
        ],
        runs.map((run) => [
          guestOf(run),
          ...(sweep === null ? [] : [run.point.value ?? 'any']),
          run.baseline,
          run.status,
          run.schedule,
          String(run.minOrder),
          run.link,
          run.workload,
          formatMs(run['total-time']),
          formatMs(run.downtime ?? Number.NaN),
          String(run['cpu-throttle-percentage']),
          formatMib(run.ram.transferred),
          String(run.ram.skipped),
          String(run.ram.duplicate),
          String(run.hints.ranges),
          formatMs(run.hints.sessions[0]?.['to-stop'] ?? Number.NaN),
          String(run.exits.configReads + run.exits.configWrites + run.exits.kicks),
          formatMs(run.eventLoop.p99),
          String(run.verified.pagesCompared),
          String(run.verified.pagesDifferent),
          run.verified.guestSelfCheck,
        ]),
      ),
    ),
  );
}
