import { isZeroPage } from '../../memory/byte-ops.js';
import { MIB, PAGE_SIZE } from '../../memory/page.js';
import { DEFAULT_OPTIONS } from '../../migration/options.js';

/** Far larger than any cache, as a guest is: 256 MiB were scanned a fifth faster than 512 here, and a guest like 512. */
const SCANNED_BYTES = 512 * MIB;
const SCANS = 5;

/**
 * How fast this machine finds that pages are all zero, in bytes a second: the median of a few scans of memory that was
 * touched before, in runs as the engine scans them. Takes about a second and 512 MiB.
 */
export function measureZeroScan(): number {
  const words = new Float64Array(new SharedArrayBuffer(SCANNED_BYTES)).fill(0);
  const bytes = new Uint8Array(words.buffer);
  const runBytes = DEFAULT_OPTIONS.maxRunPages * PAGE_SIZE;
  const rates: number[] = [];
  for (let scan = 0; scan <= SCANS; scan += 1) {
    const began = performance.now();
    for (let at = 0; at < SCANNED_BYTES; at += runBytes) {
      const run = bytes.subarray(at, at + runBytes);
      for (let page = 0; page < runBytes && isZeroPage(run, page); page += PAGE_SIZE) {
        // as the engine does, which goes on while pages are alike
      }
    }
    rates.push(SCANNED_BYTES / ((performance.now() - began) / 1000));
  }
  rates.shift(); // the first one ran code that was not compiled yet
  return rates.sort((a, b) => a - b)[SCANS >> 1]!;
}
