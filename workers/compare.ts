import { SharedGuestMemory } from '../src/memory/guest-memory.js';
import { RamLayout } from '../src/memory/ram-layout.js';
import { atomicMapper } from '../src/memory/shared-words.js';
import { WriteOracle } from '../src/memory/write-oracle.js';
import { type Comparison, comparePages } from '../src/migration/verify.js';
import type { CompareTask } from '../src/vmm/verifier.js';

export default function compare(task: CompareTask | undefined): Comparison | undefined {
  if (task === undefined) {
    return undefined;
  }
  const layout = new RamLayout(task.blocks);
  const oracle =
    task.oracle === undefined ? undefined : new WriteOracle(atomicMapper, task.oracle, layout.pfnSpan);
  return comparePages(
    new SharedGuestMemory(layout, task.source),
    new SharedGuestMemory(layout, task.destination),
    oracle,
    task.pfn,
    task.pageCount,
    task.poison,
  );
}
