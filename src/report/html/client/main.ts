import { formatShare } from '../../format.js';
import type { BenchReport, RunReport, SummaryRow } from '../../schema.js';
import { isGood } from '../../summary.js';
import { element } from './dom.js';
import { baselineSection, curvesSection, detailSection, numbersSection } from './sections.js';

/** The page of one benchmark: everything comes from the JSON that stands in it. */
function show(report: BenchReport): void {
  const { machine } = report;
  const lost = report.runs.filter((run) => !isGood(run));
  document.body.append(
    element(
      'header',
      {},
      element('h1', {}, 'What free page reporting saves'),
      element(
        'p',
        { class: 'lead' },
        `${report.runs.length} live migrations of ${[...new Set(report.runs.map(({ guest }) => guest))].join(', ')}, ` +
          'with and without the guest telling its host which of its pages are free.',
      ),
      element(
        'p',
        { class: lost.length === 0 ? 'verdict good' : 'verdict bad', role: 'status' },
        lost.length === 0
          ? 'Every page of every migration was compared, and none was lost.'
          : `${lost.length} of ${report.runs.length} migrations did not complete, or lost something.`,
      ),
      element('div', { class: 'cards' }, ...(report.sweep === null ? cards(report.summary) : [])),
    ),
    element(
      'main',
      {},
      ...(report.runs.length === 0
        ? [element('p', {}, 'No migration was made.')]
        : report.sweep === null
          ? [baselineSection(report), detailSection(report.runs), numbersSection(report)]
          : [curvesSection(report.sweep, curves), numbersSection(report)]),
    ),
    element(
      'footer',
      {},
      element('p', {}, element('code', {}, report.command)),
      element(
        'p',
        {},
        `${machine.cpu}, ${machine.cores} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, ${machine.os}, ` +
          `Node ${machine.node.slice(1)}, lacuna ${machine.lacuna}, ${new Date(report.createdAt).toUTCString()}`,
      ),
      element('p', {}, downloadLink(report)),
    ),
  );
}

/** The best that each guest saved. */
function cards(summary: readonly SummaryRow[]): HTMLElement[] {
  const best = new Map<string, SummaryRow>();
  for (const row of summary) {
    const hinted = row.baseline === 'hints' || row.baseline === 'both';
    const other = best.get(`${row.guest} ${row.freeMemory}`);
    if (hinted && row.timeSaved !== null && (other?.timeSaved ?? Number.NEGATIVE_INFINITY) < row.timeSaved) {
      best.set(`${row.guest} ${row.freeMemory}`, row);
    }
  }
  return [...best.values()].map((row) =>
    element(
      'div',
      { class: 'card' },
      element('strong', {}, formatShare(row.timeSaved ?? 0)),
      ` of the time saved: ${row.guest}, ${row.baseline === 'both' ? 'hints and zero detection' : 'hints'}`,
    ),
  );
}

function downloadLink(report: BenchReport): HTMLElement {
  const url = URL.createObjectURL(new Blob([JSON.stringify(report, null, 2)], { type: 'application/json' }));
  return element('a', { href: url, download: 'report.json' }, 'All of it as JSON');
}

const curves = document.getElementById('curves')?.dataset.source ?? '';
const text = document.getElementById('report')?.textContent ?? 'null';
show(JSON.parse(text) as BenchReport & { runs: RunReport[] });
document.documentElement.dataset.ready = 'true';
