import {
  BarController,
  BarElement,
  CategoryScale,
  Chart,
  type ChartConfiguration,
  Legend,
  LinearScale,
  LineController,
  LineElement,
  LogarithmicScale,
  type Plugin,
  PointElement,
  Tooltip,
} from 'chart.js';
import { element } from './dom.js';
import { onThemeChange, type Theme, theme } from './theme.js';

Chart.register(
  BarController,
  BarElement,
  CategoryScale,
  Legend,
  LinearScale,
  LineController,
  LineElement,
  LogarithmicScale,
  PointElement,
  Tooltip,
);
Chart.defaults.animation = false;
Chart.defaults.font.family = 'system-ui, sans-serif';
Chart.defaults.maintainAspectRatio = false;

/** A chart in its box, drawn anew when the paper changes its colour. `summary` is read out to those who can't see it. */
export function chartBox(
  summary: string,
  heightPx: number,
  configure: (colours: Theme) => ChartConfiguration,
): HTMLElement {
  const canvas = element('canvas', { role: 'img', 'aria-label': summary });
  const box = element('div', { class: 'chart', style: `height: ${heightPx}px` }, canvas);
  let chart: Chart | undefined;
  const draw = (): void => {
    chart?.destroy();
    const colours = theme();
    Chart.defaults.color = colours.ink;
    Chart.defaults.borderColor = colours.faint;
    chart = new Chart(canvas, configure(colours));
  };
  // A chart measures the box that it is drawn in, so that has to be on the page.
  requestAnimationFrame(draw);
  onThemeChange(draw);
  return box;
}

/** Least and most of each bar, as whiskers: `spreads[dataset][bar]`. */
export function whiskers(
  spreads: readonly (readonly ({ min: number; max: number } | undefined)[])[],
  colour: string,
): Plugin<'bar'> {
  return {
    id: 'whiskers',
    afterDatasetsDraw(chart: Chart<'bar'>): void {
      const { ctx } = chart;
      const y = chart.scales.y;
      if (y === undefined) {
        return;
      }
      ctx.save();
      ctx.strokeStyle = colour;
      ctx.lineWidth = 1.5;
      spreads.forEach((ofDataset, dataset) => {
        if (!chart.isDatasetVisible(dataset)) {
          return;
        }
        chart.getDatasetMeta(dataset).data.forEach(({ x }, bar) => {
          const spread = ofDataset[bar];
          if (spread === undefined || spread.min === spread.max) {
            return;
          }
          const [top, bottom] = [y.getPixelForValue(spread.max), y.getPixelForValue(spread.min)];
          ctx.beginPath();
          for (const end of [top, bottom]) {
            ctx.moveTo(x - 5, end);
            ctx.lineTo(x + 5, end);
          }
          ctx.moveTo(x, top);
          ctx.lineTo(x, bottom);
          ctx.stroke();
        });
      });
      ctx.restore();
    },
  };
}

/** A moment on the x axis. */
export interface Moment {
  readonly x: number;
  readonly label: string;
}

/** Moments as upright lines, each with its number at the top; lines that would cover each other share their numbers. */
export function moments(list: readonly Moment[], colour: string): Plugin<'line'> {
  return {
    id: 'moments',
    afterDatasetsDraw({ ctx, chartArea, scales }: Chart<'line'>): void {
      const x = scales.x;
      if (x === undefined) {
        return;
      }
      ctx.save();
      ctx.strokeStyle = colour;
      ctx.fillStyle = colour;
      ctx.setLineDash([3, 3]);
      ctx.textAlign = 'center';
      ctx.font = '11px system-ui, sans-serif';
      let lastAt = Number.NEGATIVE_INFINITY;
      let row = 0;
      list.forEach((moment, i) => {
        const at = x.getPixelForValue(moment.x);
        if (at < chartArea.left - 1 || at > chartArea.right + 1) {
          return;
        }
        ctx.beginPath();
        ctx.moveTo(at, chartArea.top);
        ctx.lineTo(at, chartArea.bottom);
        ctx.stroke();
        row = at - lastAt < 16 ? row + 1 : 0;
        lastAt = at;
        ctx.fillText(String(i + 1), at, chartArea.top - 4 - 11 * (row % 4));
      });
      ctx.restore();
    },
  };
}
