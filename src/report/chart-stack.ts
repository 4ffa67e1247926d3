import { escapeXml, type LineChartOptions, lineChart } from './svg-chart.js';

const CHART_WIDTH = 560;
const CHART_HEIGHT = 380;
const COLUMNS = 2;
const CAPTION_LINE = 18;
const MARGIN = 24;
/** Of an average character of a caption; an estimate, as in {@link lineChart}. */
const CHARACTER_WIDTH = 7.3;

/**
 * Several line charts as one SVG, two in a row, each with its own axes and legend, and lines of text under them.
 * Their titles must differ. Throws INVALID_ARGUMENT as {@link lineChart} does.
 */
export function chartStack(charts: readonly LineChartOptions[], caption: readonly string[]): string {
  const columns = Math.min(COLUMNS, charts.length);
  const width = columns * CHART_WIDTH;
  const bottom = Math.ceil(charts.length / columns) * CHART_HEIGHT;
  const lines = caption.flatMap((line) => wrap(line, (width - 2 * MARGIN) / CHARACTER_WIDTH));
  const height = bottom + (lines.length === 0 ? 0 : lines.length * CAPTION_LINE + MARGIN);
  const placed = charts.map((chart, i) => {
    const x = (i % columns) * CHART_WIDTH;
    const y = Math.floor(i / columns) * CHART_HEIGHT;
    // An SVG within an SVG has a place in it; everything else of it stays as it was drawn.
    return lineChart({ ...chart, width: CHART_WIDTH, height: CHART_HEIGHT }).replace(
      '<svg ',
      `<svg x="${x}" y="${y}" `,
    );
  });
  return [
    // The class gives it the charts' colours and font.
    `<svg xmlns="http://www.w3.org/2000/svg" class="lacuna-chart" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}">`,
    `<title>${escapeXml(charts.map(({ title }) => title).join('; '))}</title>`,
    `<rect class="ground" width="${width}" height="${height}"/>`,
    ...placed.map((chart) => chart.trimEnd()),
    ...lines.map(
      (line, i) =>
        `<text class="tick" x="${MARGIN}" y="${bottom + (i + 1) * CAPTION_LINE}">${escapeXml(line)}</text>`,
    ),
    '</svg>',
    '',
  ].join('\n');
}

/** Lines of so many characters at the most, broken at spaces where there are some. */
function wrap(text: string, most: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= most) {
      lines[lines.length - 1] = `${last} ${word}`;
    } else {
      lines.push(word);
    }
  }
  return lines;
}
