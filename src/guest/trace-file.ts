import { lowestBit, PAGE_SIZE, PAGES_PER_WORD, popcount32 } from '../memory/page.js';
import { bitmapWords, PageBitmap } from '../memory/page-bitmap.js';
import type { RamLayout } from '../memory/ram-layout.js';
import type { WordMapper } from '../memory/shared-words.js';
import { firstOutsideRam, parseTraceMeta, refuse, type SampleMeta, type TraceMeta } from './recording.js';
import { type GuestTrace, type SampleChanges, TRACE_BITMAPS, TraceBitmap, traceWords } from './trace.js';

/** The two files of a trace, the second one unpacked. */
export interface TraceFiles {
  /** meta.json, parsed. */
  readonly meta: unknown;
  /** trace.bin.gz, unpacked: a header of 64 bytes, then a record for each sample. */
  readonly records: Uint8Array;
}

const MAGIC = 'KPFTRACE';
const VERSION = 1;
const HEADER_BYTES = 64;
const HEADER_USED_BYTES = 44;
const RECORD_HEADER_BYTES = 16;

function recordBytes(meta: TraceMeta): number {
  return RECORD_HEADER_BYTES + (TRACE_BITMAPS * meta.pfns) / 8;
}

/**
 * Bytes of the records that belong to a meta.json, header included: more of them need not be unpacked.
 * Throws CAPTURE_MALFORMED.
 */
export function traceBytes(meta: unknown, where: string): number {
  const parsed = parseTraceMeta(meta, where);
  return HEADER_BYTES + parsed.samples.length * recordBytes(parsed);
}

/**
 * Reads a trace. The counts in meta.json must agree with the bitmaps, and whatever they call free, dirty or zero must be
 * RAM. Sizes are compared before memory is taken. Throws CAPTURE_MALFORMED; `where` names the trace in the message.
 */
export function parseTrace(
  map: WordMapper,
  { meta: unparsed, records }: TraceFiles,
  where: string,
): GuestTrace {
  const meta = parseTraceMeta(unparsed, where);
  const { layout } = meta;
  checkHeader(meta, records, where);
  const words = bitmapWords(layout.pfnSpan);
  const buffer = new SharedArrayBuffer(meta.samples.length * TRACE_BITMAPS * words * 4);
  const trace: GuestTrace = {
    name: meta.name,
    blocks: layout.blocks,
    timesMs: meta.samples.map(({ tMs }) => tMs),
    changes: [],
    bitmaps: buffer,
  };
  const changes: SampleChanges[] = [];
  for (const [sample, expected] of meta.samples.entries()) {
    const at = HEADER_BYTES + sample * recordBytes(meta);
    const record = records.subarray(at, at + recordBytes(meta));
    const here = `sample ${sample}`;
    checkTime(record, expected.tMs, sample === 0 ? -1 : meta.samples[sample - 1]!.tMs, `${where}: ${here}`);
    for (const [name, place] of Object.entries(TraceBitmap)) {
      const bytes = record.subarray(
        RECORD_HEADER_BYTES + (place * meta.pfns) / 8,
        RECORD_HEADER_BYTES + ((place + 1) * meta.pfns) / 8,
      );
      const bitmap = traceWords(trace, sample, place);
      // The file's bit order is that of little-endian words, so bytes are copied as they are.
      const copied = bytes.subarray(0, bitmap.byteLength);
      new Uint8Array(buffer, bitmap.byteOffset, bitmap.byteLength).set(copied);
      if (place !== TraceBitmap.dirty && sample > 0) {
        const before = traceWords(trace, sample - 1, place);
        for (let i = 0; i < words; i += 1) {
          bitmap[i] = bitmap[i]! ^ before[i]!;
        }
      }
      const outside = firstOutside(map, layout, bitmap, bytes);
      if (outside !== undefined) {
        refuse(where, `${here}: pfn ${outside} is ${name} and no RAM lies behind it`);
      }
    }
    changes.push(countChanges(trace, sample, expected, `${where}: ${here}`));
  }
  return { ...trace, changes };
}

function checkHeader(meta: TraceMeta, records: Uint8Array, where: string): void {
  const size = HEADER_BYTES + meta.samples.length * recordBytes(meta);
  if (records.length !== size) {
    refuse(
      where,
      `the trace has ${records.length} bytes, and meta.json's ${meta.samples.length} samples of ${meta.pfns} pfns take ${size}`,
    );
  }
  const view = new DataView(records.buffer, records.byteOffset, records.length);
  if (String.fromCharCode(...records.subarray(0, MAGIC.length)) !== MAGIC) {
    refuse(where, `the trace does not begin with ${MAGIC}`);
  }
  const fields: readonly (readonly [offset: number, what: string, value: number])[] = [
    [8, 'version', VERSION],
    [12, 'header bytes', HEADER_BYTES],
    [16, 'page size', PAGE_SIZE],
    [20, 'samples', meta.samples.length],
    [24, 'pfns', meta.pfns],
    [28, 'pfns (upper half)', 0],
    [32, 'bytes of a bitmap', meta.pfns / 8],
    [36, 'bytes of a record', recordBytes(meta)],
    [40, 'bitmaps in a record', TRACE_BITMAPS],
  ];
  for (const [offset, what, value] of fields) {
    if (view.getUint32(offset, true) !== value) {
      refuse(where, `the trace's header: ${what} is ${view.getUint32(offset, true)}, not ${value}`);
    }
  }
  if (records.subarray(HEADER_USED_BYTES, HEADER_BYTES).some((byte) => byte !== 0)) {
    refuse(where, "the trace's header does not end in zeroes");
  }
}

function checkTime(record: Uint8Array, expectedMs: number, beforeMs: number, where: string): void {
  const tMs = new DataView(record.buffer, record.byteOffset).getUint32(0, true);
  if (tMs !== expectedMs) {
    refuse(where, `the trace was there at ${tMs} ms, and meta.json says ${expectedMs}`);
  }
  if (beforeMs === -1 ? tMs !== 0 : tMs <= beforeMs) {
    refuse(where, `tMs is ${tMs}: the first is 0 and each is later than the one before`);
  }
}

/** The first page of a bitmap that is not RAM: in a hole of the layout, or (seen in the file's bytes) behind its end. */
function firstOutside(
  map: WordMapper,
  layout: RamLayout,
  words: Uint32Array,
  bytes: Uint8Array,
): number | undefined {
  const rest = bytes.subarray(words.byteLength);
  const behind = rest.findIndex((byte) => byte !== 0);
  if (behind !== -1) {
    return (words.byteLength + behind) * 8 + lowestBit(rest[behind]!);
  }
  const bitmap = new PageBitmap(
    map.ownWords(words.buffer, words.byteOffset, words.length),
    words.length * PAGES_PER_WORD,
  );
  return firstOutsideRam(bitmap, layout);
}

function countChanges(trace: GuestTrace, sample: number, expected: SampleMeta, where: string): SampleChanges {
  const free = traceWords(trace, sample, TraceBitmap.free);
  const dirty = traceWords(trace, sample, TraceBitmap.dirty);
  const zero = traceWords(trace, sample, TraceBitmap.zero);
  const before = sample === 0 ? free : traceWords(trace, sample - 1, TraceBitmap.free);
  const counted = { free: 0, dirty: 0, zero: 0, freed: 0, allocated: 0 };
  let written = 0;
  for (let i = 0; i < free.length; i += 1) {
    const now = free[i]!;
    counted.free += popcount32(now);
    counted.dirty += popcount32(dirty[i]!);
    counted.zero += popcount32(zero[i]!);
    counted.freed += popcount32(now & ~before[i]!);
    counted.allocated += popcount32(before[i]! & ~now);
    written += popcount32(dirty[i]! & ~(now | before[i]!));
  }
  for (const [name, pages] of Object.entries(counted)) {
    if (pages !== expected[name as keyof typeof counted]) {
      refuse(
        where,
        `${pages} pages are ${name}, and meta.json's samples say ${expected[name as keyof typeof counted]}`,
      );
    }
  }
  if (sample === 0 && counted.dirty !== 0) {
    refuse(where, `${counted.dirty} pages are dirty, and there is no sample before it`);
  }
  return { freed: counted.freed, allocated: counted.allocated, written };
}
