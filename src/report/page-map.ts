import { deflateRawSync } from 'node:zlib';
import { encodePageRuns } from './page-runs.js';

/** A map of guest memory as text, for JSON: `page-runs.ts`, deflated without a header (RFC 1951), in base64. */
export function encodePageMap(fates: Uint8Array): string {
  return deflateRawSync(encodePageRuns(fates), { level: 9 }).toString('base64');
}
