import { z } from 'zod';
import { LacunaError, messageOf } from '../errors.js';
import { PAGE_SIZE, PAGES_PER_WORD } from '../memory/page.js';
import type { PageBitmap } from '../memory/page-bitmap.js';
import { RamLayout } from '../memory/ram-layout.js';
import { MOST_BLOCKS, MOST_PFNS } from './memory-map.js';

/* What a capture and a trace have in common: the meta.json beside them, and bitmaps in which only RAM may be set. */

const range = z.object({
  startGpa: z.int().nonnegative(),
  endGpa: z.int().positive(),
});

const count = z.int().nonnegative();

/** The README beside the captures describes all of a meta.json; this is what lacuna reads of it. */
const recordingMeta = z.object({
  name: z.string().min(1),
  memoryBytes: z.int().positive().multipleOf(PAGE_SIZE),
  pageSize: z.literal(PAGE_SIZE),
  pfns: z.int().positive().multipleOf(8).max(MOST_PFNS),
  backing: z.array(range).min(1).max(MOST_BLOCKS),
});
const captureMeta = recordingMeta.extend({
  counts: z.object({ pages: z.int(), free: z.int(), zero: z.int().nullish() }),
});
const traceMeta = recordingMeta.extend({
  counts: z.object({ pages: z.int(), samples: z.int() }),
  samples: z
    .array(z.object({ tMs: count, free: count, dirty: count, allocated: count, freed: count, zero: count }))
    .min(1),
});

/** A meta.json, checked as far as it can be without the other files. */
interface RecordingMeta {
  readonly name: string;
  readonly pfns: number;
  readonly layout: RamLayout;
}

export interface CaptureMeta extends RecordingMeta {
  readonly freePages: number;
  /** undefined: it is not known which pages are zero. */
  readonly zeroPages: number | undefined;
}

/** When a sample was taken, and how many pages are what by its bitmaps and those of the one before. */
export interface SampleMeta {
  readonly tMs: number;
  readonly free: number;
  readonly dirty: number;
  readonly allocated: number;
  readonly freed: number;
  readonly zero: number;
}

export interface TraceMeta extends RecordingMeta {
  readonly samples: readonly SampleMeta[];
}

/** Throws CAPTURE_MALFORMED; `where` names the recording in the message. */
export function refuse(where: string, what: string, cause?: unknown): never {
  throw new LacunaError('CAPTURE_MALFORMED', `${where}: ${what}`, { cause });
}

/**
 * Checks the meta.json of a capture. Everything in it that has a size is compared with something else before anything is
 * made of that size. Throws CAPTURE_MALFORMED; `where` names the capture in the message.
 */
export function parseCaptureMeta(unparsed: unknown, where: string): CaptureMeta {
  const meta = parse(captureMeta, unparsed, where);
  const { name, pfns, counts } = meta;
  const layout = layoutOf(meta, where);
  return { name, pfns, layout, freePages: counts.free, zeroPages: counts.zero ?? undefined };
}

/** The same for a trace's. */
export function parseTraceMeta(unparsed: unknown, where: string): TraceMeta {
  const meta = parse(traceMeta, unparsed, where);
  const { name, pfns, counts, samples } = meta;
  const layout = layoutOf(meta, where);
  if (samples.length !== counts.samples) {
    refuse(
      where,
      `meta.json: samples has ${samples.length} entries and counts.samples says ${counts.samples}`,
    );
  }
  return { name, pfns, layout, samples };
}

function parse<Meta>(schema: z.ZodType<Meta>, meta: unknown, where: string): Meta {
  const parsed = schema.safeParse(meta);
  return parsed.success ? parsed.data : refuse(where, `meta.json: ${z.prettifyError(parsed.error)}`);
}

function layoutOf(
  { memoryBytes, pfns, backing, counts }: z.infer<typeof recordingMeta> & { counts: { pages: number } },
  where: string,
): RamLayout {
  // A layout has an object for every 4 GiB: not before it is known how far RAM can go.
  const end = backing.reduce((highest, { endGpa }) => Math.max(highest, endGpa), 0);
  if (end > pfns * PAGE_SIZE) {
    refuse(where, `meta.json: backing ends at pfn ${Math.ceil(end / PAGE_SIZE)}, and pfns says ${pfns}`);
  }
  const covered = backing.reduce((sum, { startGpa, endGpa }) => sum + endGpa - startGpa, 0);
  if (covered !== memoryBytes) {
    refuse(where, `meta.json: backing covers ${covered} bytes and memoryBytes says ${memoryBytes}`);
  }
  if (memoryBytes !== counts.pages * PAGE_SIZE) {
    refuse(
      where,
      `meta.json: backing has ${memoryBytes / PAGE_SIZE} pages and counts.pages says ${counts.pages}`,
    );
  }
  try {
    return new RamLayout(backing);
  } catch (cause) {
    return refuse(where, `meta.json: backing: ${messageOf(cause)}`, cause);
  }
}

/** The first page of a bitmap that is not RAM: in a hole of the layout, or in the last word behind it. */
export function firstOutsideRam(bitmap: PageBitmap, layout: RamLayout): number | undefined {
  let gap = 0;
  for (const { firstPfn, pageCount } of layout.segments) {
    const pfn = bitmap.nextSet(gap, firstPfn);
    if (pfn < firstPfn) {
      return pfn;
    }
    gap = firstPfn + pageCount;
  }
  const end = bitmap.wordCount * PAGES_PER_WORD;
  const pfn = bitmap.nextSet(gap, end);
  return pfn < end ? pfn : undefined;
}
