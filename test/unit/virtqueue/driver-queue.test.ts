import { describe, expect, it } from 'vitest';
import { type GuestMemory, PrivateGuestMemory } from '../../../src/memory/guest-memory.js';
import { MIB, PAGE_SIZE, pfnOf } from '../../../src/memory/page.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { DriverQueue } from '../../../src/virtqueue/driver-queue.js';
import { packQueue } from '../../../src/virtqueue/layout.js';
import { dirtyPages, emptyLog, HOLED_LAYOUT, RingPair, WitnessedLog } from '../../support/ring-pair.js';

function withCode(code: string) {
  return expect.objectContaining({ code });
}

/** The same RAM on another machine. */
function copyOf(memory: GuestMemory): PrivateGuestMemory {
  const there = new PrivateGuestMemory(memory.layout);
  for (const [i, { bytes }] of memory.segments.entries()) {
    there.segments[i]!.bytes.set(bytes);
  }
  return there;
}

describe('DriverQueue', () => {
  it('refuses a ring that is not RAM', () => {
    const memory = new PrivateGuestMemory(HOLED_LAYOUT);
    expect(() => new DriverQueue(memory, atomicMapper, emptyLog(memory), packQueue(MIB, 8), false)).toThrow(
      withCode('INVALID_ARGUMENT'),
    );
  });

  it('starts with every descriptor free, and a ring that shows nothing', () => {
    const pair = new RingPair({ size: 4 });
    expect(pair.driver).toMatchObject({ size: 4, freeCount: 4, nextHead: 0, idle: true });
    expect([pair.raw.availFlags, pair.raw.availIdx, pair.raw.usedEvent]).toEqual([0, 0, 0]);
  });

  it('overwrites what lay where the ring is made', () => {
    const memory = new PrivateGuestMemory(HOLED_LAYOUT);
    memory.pages(0, 4).fill(0xee);
    const { raw } = new RingPair({ size: 4, memory });
    expect([raw.availFlags, raw.availIdx, raw.usedEvent]).toEqual([0, 0, 0]);
  });

  it('shows nothing before it publishes, and all of a batch then', () => {
    const pair = new RingPair({ size: 4 });
    pair.driver.tryAddInbuf(PAGE_SIZE, 1);
    pair.driver.tryAddOutbuf(PAGE_SIZE, 2);
    expect(pair.raw.availIdx).toBe(0);
    expect(pair.device.refresh()).toBe(false);
    pair.driver.publish();
    expect(pair.raw.availIdx).toBe(2);
    expect(pair.device.refresh()).toBe(true);
    expect(pair.device.batch).toBe(2);
  });

  it('names the descriptor that the next buffer gets, and says when there is none', () => {
    const { driver } = new RingPair({ size: 2 });
    const heads = [driver.nextHead, driver.tryAddInbuf(0, 1), driver.nextHead, driver.tryAddOutbuf(0, 1)];
    expect(heads).toEqual([0, 0, 1, 1]);
    expect(driver).toMatchObject({ nextHead: -1, freeCount: 0, idle: false });
    expect(driver.tryAddInbuf(0, 1)).toBe(-1);
    expect(driver.tryAddOutbuf(0, 1)).toBe(-1);
  });

  it('leaves the ring as it was when a buffer does not fit', () => {
    const pair = new RingPair({ size: 1 });
    pair.driver.tryAddInbuf(7 * PAGE_SIZE, 5);
    const state = pair.driver.saveState();
    pair.driver.tryAddInbuf(9 * PAGE_SIZE, 6);
    expect(pair.driver.saveState()).toEqual(state);
    expect(pair.raw.readDescriptor(0)).toMatchObject({ gpa: 7 * PAGE_SIZE, lengthBytes: 5 });
  });

  it('splits a 64-bit address into halves', () => {
    const { driver, raw } = new RingPair({ size: 2 });
    driver.tryAddInbuf(0x12_3456_789a_b000, 0xffff_f000);
    driver.tryAddInbuf(0xffff_f000, 1);
    expect(raw.readDescriptor(0)).toMatchObject({
      gpa: 0x789a_b000,
      gpaHigh: 0x12_3456,
      lengthBytes: 0xffff_f000,
    });
    expect(raw.readDescriptor(1)).toMatchObject({ gpa: 0xffff_f000, gpaHigh: 0 });
  });

  it('reuses descriptors first in, first out, and takes back any order', () => {
    const pair = new RingPair({ size: 4 });
    pair.addPages(10, 11, 12, 13);
    [2, 0, 3].forEach((head, slot) => {
      pair.raw.setUsedElement(slot, head);
    });
    pair.raw.usedIdx = 3;
    expect(pair.driver.reclaim()).toBe(3);
    expect(pair.driver.freeCount).toBe(3);
    expect([1, 2, 3].map(() => pair.driver.tryAddInbuf(0, 1))).toEqual([2, 0, 3]);
    expect(pair.driver.nextHead).toBe(-1);
  });

  it('is idle again when everything came back', () => {
    const pair = new RingPair({ size: 4 });
    pair.addPages(10, 11);
    expect(pair.takeAll()).toEqual([10, 11]);
    expect(pair.driver.idle).toBe(false);
    expect(pair.driver.reclaim()).toBe(2);
    expect(pair.driver.reclaim()).toBe(0);
    expect(pair.driver.idle).toBe(true);
  });

  it('refuses more buffers back than it gave', () => {
    const pair = new RingPair({ size: 4 });
    pair.addPages(10);
    pair.raw.usedIdx = 2;
    expect(() => pair.driver.reclaim()).toThrow(withCode('QUEUE_CORRUPT'));
  });

  it('refuses a used index that went back', () => {
    const pair = new RingPair({ size: 4 });
    pair.raw.usedIdx = 0xffff;
    expect(() => pair.driver.reclaim()).toThrow(withCode('QUEUE_CORRUPT'));
  });

  it('refuses a descriptor back that it does not have', () => {
    const pair = new RingPair({ size: 4 });
    pair.addPages(10);
    pair.raw.setUsedElement(0, 4);
    pair.raw.usedIdx = 1;
    expect(() => pair.driver.reclaim()).toThrow(withCode('QUEUE_CORRUPT'));
  });

  it('needs to notify once a batch, and not for a batch of nothing', () => {
    const pair = new RingPair({ size: 4 });
    expect(pair.driver.needsNotification()).toBe(false);
    pair.addPages(1, 2);
    expect(pair.driver.needsNotification()).toBe(true);
    expect(pair.driver.needsNotification()).toBe(false);
    pair.driver.publish();
    expect(pair.driver.needsNotification()).toBe(false);
  });

  it('says at once when buffers came back before it asked for an interrupt', () => {
    const pair = new RingPair({ size: 4 });
    pair.addPages(1);
    expect(pair.driver.enableInterrupts()).toBe(false);
    pair.takeAll();
    expect(pair.driver.enableInterrupts()).toBe(true);
    pair.driver.reclaim();
    expect(pair.driver.enableInterrupts()).toBe(false);
  });

  it.each([false, true])(
    'goes on elsewhere from its saved state and the ring in RAM (EVENT_IDX: %s)',
    (eventIdx) => {
      const pair = new RingPair({ size: 4, eventIdx, startIndex: 0xfffe });
      pair.addPages(10, 11, 12);
      pair.driver.needsNotification();
      pair.device.refresh();
      expect(pair.takePage()).toBe(10);
      pair.device.publishUsed();

      const there = copyOf(pair.memory);
      const driver = new DriverQueue(
        there,
        atomicMapper,
        emptyLog(there),
        pair.addresses,
        eventIdx,
        pair.driver.saveState(),
      );
      expect(driver.reclaim()).toBe(1);
      expect(driver.freeCount).toBe(2);
      // The free list came along in guest RAM: the next two are the one never used and the one that came back.
      expect([driver.tryAddInbuf(0, 1), driver.tryAddInbuf(0, 1), driver.tryAddInbuf(0, 1)]).toEqual([
        3, 0, -1,
      ]);
    },
  );

  it('hands out its saved state as a copy', () => {
    const pair = new RingPair({ size: 4 });
    pair.driver.saveState().freeCount = 0;
    expect(pair.driver.freeCount).toBe(4);
  });

  it('marks the pages of what it writes, and no others', () => {
    const memory = new PrivateGuestMemory(HOLED_LAYOUT);
    const { log } = new WitnessedLog(memory);
    const pair = new RingPair({ size: 1024, memory, log });
    const { descGpa, availGpa } = pair.addresses;
    // Descriptors on pages 1 to 4, and all of the available ring on page 5.
    expect([descGpa, availGpa].map(pfnOf)).toEqual([1, 5]);
    expect(dirtyPages(log)).toEqual([1, 2, 3, 4, 5]);
    log.bitmap.clearAll();
    pair.driver.tryAddInbuf(PAGE_SIZE, 1);
    pair.driver.publish();
    expect(dirtyPages(log)).toEqual([1, 5]);
    log.bitmap.clearAll();
    pair.raw.setUsedElement(0, 0);
    pair.raw.usedIdx = 1;
    pair.driver.reclaim();
    // The descriptor that goes back to the free list, and the list's last, which it is linked behind.
    expect(dirtyPages(log)).toEqual([1, 4]);
    log.bitmap.clearAll();
    pair.driver.disableInterrupts();
    expect(dirtyPages(log)).toEqual([5]);
  });

  // The marks of a batch begin where those of the last one ended, whether or not the wish was looked at between.
  it('marks all it wrote when it publishes twice before it looks at the device’s wish', () => {
    const memory = new PrivateGuestMemory(HOLED_LAYOUT);
    const witness = new WitnessedLog(memory);
    const pair = new RingPair({ size: 8192, memory, log: witness.log });
    const pages = (count: number) => Array.from({ length: count }, (_, i) => 512 + (i % 256));
    pair.addPages(...pages(6000));
    pair.takeAll();
    pair.device.needsInterrupt();
    pair.driver.reclaim();
    witness.forget();
    pair.addPages(...pages(4000));
    expect(witness.unmarkedPages()).toEqual([]);
  });
});
