/**
 * `npm run test:long` sets LACUNA_LONG: the sweeps that `npm test` takes samples of are done to their end, and properties
 * are tried for longer.
 */
export const LONG: boolean = process.env['LACUNA_LONG'] === '1';

/** Every `n`-th of a sweep; each of them with LACUNA_LONG. */
export function every(n: number): number {
  return LONG ? 1 : n;
}

/** fast-check's parameters: how often a property is tried, and for how long at the most. Twenty times that with LACUNA_LONG. */
export function effort(
  numRuns: number,
  limitMs: number,
): { readonly numRuns: number; readonly interruptAfterTimeLimit: number } {
  const times = LONG ? 20 : 1;
  return { numRuns: numRuns * times, interruptAfterTimeLimit: limitMs * times };
}
