import { crc32 } from 'node:zlib';
import { SharedGuestMemory } from '../src/memory/guest-memory.js';
import { RamLayout } from '../src/memory/ram-layout.js';
import { atomicMapper } from '../src/memory/shared-words.js';
import { WriteOracle } from '../src/memory/write-oracle.js';
import { compareDigests, DIGEST_BYTES, DIGEST_WORDS, digestPages } from '../src/migration/page-digests.js';
import type { Comparison } from '../src/migration/verify.js';
import type { DigestTask } from '../src/vmm/page-digester.js';

/** Makes digests, or compares pages with those that there are. */
export default function digest(task: DigestTask | undefined): Comparison | undefined {
  if (task === undefined) {
    return undefined;
  }
  const { buffers, pfn, pageCount, compare } = task;
  const layout = new RamLayout(task.blocks);
  const memory = new SharedGuestMemory(layout, buffers);
  const digests = new Uint32Array(task.digests, task.firstPage * DIGEST_BYTES, pageCount * DIGEST_WORDS);
  if (compare === undefined) {
    digestPages({ memory, pfn, pageCount, digests }, crc32);
    return undefined;
  }
  const oracle =
    compare.oracle === undefined ? undefined : new WriteOracle(atomicMapper, compare.oracle, layout.pfnSpan);
  return compareDigests({ memory, pfn, pageCount, digests }, oracle, crc32, compare.poison);
}
