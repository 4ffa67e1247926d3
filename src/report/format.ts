import { MIB } from '../memory/page.js';

/** Milliseconds as people read them: 1.72 s, 312 ms, 4.1 ms. */
export function formatMs(ms: number): string {
  if (Number.isNaN(ms)) {
    return '–';
  }
  if (ms >= 1000) {
    return `${(ms / 1000).toFixed(2)} s`;
  }
  return ms >= 100 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}

export function formatMib(bytes: number): string {
  return (bytes / MIB).toFixed(bytes < 10 * MIB ? 1 : 0);
}

/** A share of 0 … 1. */
export function formatShare(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}
