import { isZeroPage } from '../../memory/byte-ops.js';
import type { GuestMemory } from '../../memory/guest-memory.js';
import { PAGE_SIZE } from '../../memory/page.js';

/**
 * What is in a machine's RAM before it runs: its firmware and, where v86 was given one, a kernel with its initrd. v86 puts
 * a kernel there once, and it is overwritten by being run; so that the guest can reboot it has to be put there again.
 */
export class BootMemory {
  /** Runs of pages that are not all zero. */
  readonly #runs: { readonly pfn: number; readonly bytes: Uint8Array }[] = [];

  /** Remembers what is there now. */
  constructor(memory: GuestMemory) {
    for (const { bytes, firstPfn, pageCount } of memory.segments) {
      let page = 0;
      while (page < pageCount) {
        const from = page;
        while (page < pageCount && !isZeroPage(bytes, page * PAGE_SIZE)) {
          page += 1;
        }
        if (page > from) {
          this.#runs.push({ pfn: firstPfn + from, bytes: bytes.slice(from * PAGE_SIZE, page * PAGE_SIZE) });
        } else {
          page += 1;
        }
      }
    }
  }

  /** Puts it there again. */
  restore(memory: GuestMemory): void {
    for (const { pfn, bytes } of this.#runs) {
      memory.pages(pfn, bytes.length / PAGE_SIZE).set(bytes);
    }
  }
}
