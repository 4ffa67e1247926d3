import type { WorldBounds } from '../explorer/migration-world.js';

/** A mistake of the kind that real implementations made: one line of the engine, or two that changed places. */
export interface Mutant {
  readonly name: string;
  /** What goes wrong, and where it was seen. */
  readonly story: string;
  readonly file: string;
  /** Each `find` stands exactly once in the file. */
  readonly edits: readonly { readonly find: string; readonly replace: string }[];
  readonly caughtBy: /** One of the explored worlds, or one that is only looked at until the mistake shows. */
    | { readonly world: string; readonly bounds?: Partial<WorldBounds> }
    | { readonly project: 'unit' | 'explorer'; readonly file: string; readonly test: string };
}

const mutant = (
  name: string,
  story: string,
  file: string,
  edits: Mutant['edits'] | Mutant['edits'][number],
  caughtBy: Mutant['caughtBy'],
): Mutant => ({
  name,
  story,
  file,
  edits: Array.isArray(edits) ? edits : [edits as Mutant['edits'][number]],
  caughtBy,
});

const world = (name: string): Mutant['caughtBy'] => ({ world: name });
const unit = (file: string, test: string): Mutant['caughtBy'] => ({ project: 'unit', file, test });
const explorer = (file: string, test: string): Mutant['caughtBy'] => ({ project: 'explorer', file, test });

/** The host does not wait for the report, so the guest is still at the last one when the next is asked for. */
const LATE: Mutant['caughtBy'] = {
  world: 'a late guest: overlap, two rounds, a free page is taken back',
  bounds: { schedule: 'overlap', writes: 0, allocations: 1 },
};
/** The same with a ring that has room for one range, so that the driver has to keep the next in hand. */
const LATE_SMALL_RING: Mutant['caughtBy'] = {
  world: 'a late guest with a ring of two entries',
  bounds: { ...(LATE as { bounds: object }).bounds, pages: 3, freePages: 1, ringSize: 2 },
};
const PRECOPY = 'src/migration/precopy.ts';
const RECOVERY = 'test/unit/migration/recovery.test.ts';

export const MUTANTS: readonly Mutant[] = [
  mutant(
    'mark before write',
    'the page is marked dirty, and then written: a drain in between takes the mark and sends the old bytes (I1)',
    'src/guest/ledger.ts',
    [
      {
        find: '    this.#oracle?.stampWrite(pfn);\n',
        replace: '    this.#oracle?.stampWrite(pfn);\n    this.#ram.log.mark(pfn);\n',
      },
      { find: '    this.#ram.log.mark(pfn);\n    this.note', replace: '    this.note' },
    ],
    world('walk, overlap: a used page is written'),
  ),
  mutant(
    'mark only if not yet marked',
    'saves an atomic operation, and loses a write that still sits in the store buffer when the bit is cleared (I1)',
    'src/memory/page-bitmap.ts',
    {
      find: '    this.words.or(pfn >>> 5, 1 << (pfn & 31));',
      replace: '    if (!this.test(pfn)) this.words.or(pfn >>> 5, 1 << (pfn & 31));',
    },
    explorer('test/explorer/mark.test.ts', 'loses no write .TSO'),
  ),
  mutant(
    'the log is read, and cleared afterwards',
    'a mark that comes between the two is lost (I1, I2)',
    'src/memory/dirty-log.ts',
    {
      find: '        sink.addDirty(index, words.exchange(index, 0));',
      replace: '        sink.addDirty(index, words.load(index));\n        words.store(index, 0);',
    },
    world('access by access: a used page is written'),
  ),
  mutant(
    'a page is read before it is claimed',
    'its bit is still set while it is read; a hint that comes meanwhile takes out a page that is under way (I5)',
    'src/migration/send-cursor.ts',
    {
      find: '    this.#held = this.#send.words.and(word, ~mask) & mask;',
      replace: '    this.#held = this.#send.words.load(word) & mask;',
    },
    unit('test/unit/migration/precopy.test.ts', 'I5 claims every page'),
  ),
  mutant(
    'a hint clears the dirty log',
    "QEMU's lazily cleared log: with the hint the log's own bit goes, and with it a write that came after the hint (I3)",
    'src/balloon/balloon-device.ts',
    {
      find: '            session.range(gpa, lengthBytes, now);',
      replace:
        '            session.range(gpa, lengthBytes, now);\n            this.#options.log.bitmap.clearRange(gpa / PAGE_SIZE, lengthBytes / PAGE_SIZE);',
    },
    world('walk, wait: a free page is taken back and written'),
  ),
  mutant(
    'the log spares skipped pages',
    'a page that was hinted counts as free for good; what the guest writes into it later stays behind (I3)',
    'src/migration/page-accounts.ts',
    {
      find: '    this.send.words.or(wordIndex, bits);',
      replace: '    this.send.words.or(wordIndex, bits & ~this.skipped.words.load(wordIndex));',
    },
    world('walk, wait: a free page is taken back and written'),
  ),
  mutant(
    'any id starts the session',
    'the marker of the last session starts this one, and its stale ranges are applied (I4, T1; QEMU 67808fda37)',
    'src/balloon/hint-session.ts',
    {
      find: 'this.state === HintState.requested && value === this.id',
      replace: 'this.state === HintState.requested && value !== STOP_SIGN',
    },
    LATE,
  ),
  mutant(
    'an id is used again',
    'the stale ranges of the last session go out under the id of this one (I4, V2)',
    'src/balloon/balloon-device.ts',
    { find: '    this.#nextId = nextCommandId(id);', replace: '    this.#nextId = id;' },
    unit('test/conformance/command-register.test.ts', 'C9'),
  ),
  mutant(
    'the log is drained while the session is open',
    'a hint that was made before the drain is applied after it (I4)',
    PRECOPY,
    {
      find: '    this.#stopWaiting(now);\n    this.#closeSession(now);\n',
      replace: '    this.#stopWaiting(now);\n',
    },
    world('walk, overlap: a free page is taken back and written'),
  ),
  mutant(
    'id check and clear are not one section',
    'a range passes the check under one id and is applied under the next (I4)',
    'src/balloon/hint-session.ts',
    {
      find: '    if (this.#sink.hint(gpa, lengthBytes)) {',
      replace:
        '    const [lateGpa, lateBytes] = this.late ?? [gpa, lengthBytes];\n    this.late = [gpa, lengthBytes];\n    if (this.#sink.hint(lateGpa, lateBytes)) {',
    },
    world('walk, wait: a free page is taken back and written'),
  ),
  mutant(
    'ranges count before the session has begun',
    'what is left of the last report is taken for the beginning of this one (I4)',
    'src/balloon/hint-session.ts',
    {
      find: 'if (this.state !== HintState.reporting || this.#sink === undefined) {',
      replace: 'if (this.#sink === undefined) {',
    },
    LATE,
  ),
  mutant(
    'a range is kept over a stop',
    'the driver puts what did not fit into the last report on the ring under the next id (I4)',
    'src/balloon/report-driver.ts',
    {
      find: '    this.#range.pageCount = 0;\n    if (this.#options.holdsUntilDone !== true) {',
      replace: '    if (this.#options.holdsUntilDone !== true) {',
    },
    LATE_SMALL_RING,
  ),
  mutant(
    "an old stop sign is taken for this session's",
    'the session ends before it has begun, and the host waits for nothing (T2; QEMU 7eb63fccf4)',
    'src/balloon/hint-session.ts',
    {
      find: '    } else if (this.state === HintState.reporting) {',
      replace: '    } else if (this.state !== HintState.closed) {',
    },
    unit('test/unit/balloon/hint-session.test.ts', ''),
  ),
  mutant(
    'the id can still be read after the close',
    'a guest that answers late starts a report that nobody waits for (V1)',
    'src/balloon/registers.ts',
    {
      find: '    this.invalidateId();\n    this.#request(REPORT_STOP);',
      replace: '    this.#request(REPORT_STOP);',
    },
    world('walk, wait: a used page is written'),
  ),
  mutant(
    'START is set before the id',
    'a guest that is quick reads the id of the last report (C1)',
    'src/balloon/registers.ts',
    {
      find: '    this.#control.words.store(CMD_ID_REG, id | 0);\n    this.#request(REPORT_START);',
      replace: '    this.#request(REPORT_START);\n    this.#control.words.store(CMD_ID_REG, id | 0);',
    },
    unit('test/conformance/command-register.test.ts', 'C1'),
  ),
  mutant(
    'acknowledgement after the id was read',
    'a request that comes between the two is acknowledged with the old one, and never served (C2)',
    'src/balloon/command-driver.ts',
    [
      {
        find: "this.#bits === 0 ? 'idle' : 'acknowledge';",
        replace: "this.#bits === 0 ? 'idle' : 'parameters';\n        this.asked = this.#bits;",
      },
      {
        find: "        this.#port.writeConfig(CMD_REG_OFFSET, this.#bits, ExitFeature.shared);\n        this.#phase = 'parameters';",
        replace:
          "        this.#port.writeConfig(CMD_REG_OFFSET, this.asked, ExitFeature.shared);\n        this.#phase = 'idle';",
      },
      {
        find: "        if (this.#bits === 0) {\n          this.#phase = 'idle';",
        replace: "        if (this.#bits === 0) {\n          this.#phase = 'acknowledge';",
      },
    ],
    unit('test/conformance/command-register.test.ts', 'C2'),
  ),
  mutant(
    'a balloon request ends the session',
    'every config interrupt is taken for the end of the report (V8)',
    'src/balloon/command-driver.ts',
    {
      find: '      requested: ([pages = 0]) => balloon.setTarget(pages),',
      replace: '      requested: ([pages = 0]) => { report.stop(); balloon.setTarget(pages); },',
    },
    unit('test/conformance/command-register.test.ts', 'C10'),
  ),
  mutant(
    'only the first segment of an element counts',
    'Linux puts one range into an element, others do not (V10)',
    'src/balloon/balloon-device.ts',
    {
      find: '        for (let s = 0; s < element.segmentCount; s += 1) {\n          const gpa',
      replace: '        for (let s = 0; s < 1; s += 1) {\n          const gpa',
    },
    unit('test/conformance', 'V10'),
  ),
  mutant(
    'a hint is rounded outwards',
    'a page that is free only in part is left behind (V11)',
    'src/migration/page-accounts.ts',
    {
      find: '    let pfn = Math.ceil(gpa / PAGE_SIZE);',
      replace: '    let pfn = Math.floor(gpa / PAGE_SIZE);',
    },
    unit('test/conformance', 'V11'),
  ),
  mutant(
    'a skipped page keeps its older copy',
    'the destination holds what the page was before it was freed, and it comes back to life (I7)',
    'src/migration/page-accounts.ts',
    { find: '      const stale = this.copied.words.load(word) & hit;', replace: '      const stale = 0;' },
    world('a page is written after it was sent, freed, and hinted in the next round'),
  ),
  mutant(
    'nobody notes what was sent',
    'the same by another way: no fill is due for a page of which the destination holds a copy (I7)',
    PRECOPY,
    {
      find: '    this.accounts.copied.setRange(pfn, pageCount);\n    this.sent.pages',
      replace: '    this.sent.pages',
    },
    world('a page is written after it was sent, freed, and hinted in the next round'),
  ),
  mutant(
    'the destination takes a fill for done',
    'a fill of pages that it has written already is passed over (I7)',
    'src/wire/page-applier.ts',
    {
      find: '    this.#written.setRange(pfn, pageCount);\n    return bytes;',
      replace: '    return bytes;',
    },
    world('a page is written after it was sent, freed, and hinted in the next round'),
  ),
  mutant(
    'no drain after the guest has stopped',
    'what it wrote last stays behind (I2)',
    PRECOPY,
    {
      find: '        if (this.#vm.drainDirty(this.accounts)) {\n          this.#beginRound(now, true);',
      replace: '        {\n          this.#beginRound(now, true);',
    },
    world('walk, wait: a used page is written'),
  ),
  mutant(
    'the host goes on writing after the last drain',
    'it returns what it finds in the ring, into a page that has been sent (V14)',
    PRECOPY,
    { find: '      this.#vm.device?.freeze(); // nothing', replace: '      // nothing' },
    unit('test/conformance/hinting.test.ts', 'V14'),
  ),
  mutant(
    'held blocks are kept after a stop',
    'the guest is told that the report is over and keeps its blocks (C13; QEMU dd8eeb9671fc)',
    'src/balloon/report-driver.ts',
    {
      find: '    if (this.#options.holdsUntilDone !== true) {',
      replace: '    if (this.#options.holdsUntilDone === true) {',
    },
    world('hold: it is cancelled at any moment'),
  ),
  mutant(
    'no stop after a cancel',
    'the guest is never told, and keeps its blocks (T3; QEMU dd8eeb9671fc)',
    PRECOPY,
    {
      find: '    this.#vm.device?.unfreeze();\n    this.#closeSession(now);',
      replace: '    this.#vm.device?.unfreeze();',
    },
    world('hold: it is cancelled at any moment'),
  ),
  mutant(
    'no DONE after a cancel',
    'in VIRTIO’s dialect STOP gives nothing back: the guest keeps its blocks for good (V6, T3)',
    'src/balloon/balloon-device.ts',
    { find: '    if (this.#owesDone) {', replace: '    if (this.#owesDone && this.#frozen) {' },
    world('virtio, hold: it is cancelled at any moment'),
  ),
  mutant(
    'DONE stays behind',
    'it is shown when the device state has been saved: nobody tells the guest at the destination (V9)',
    'src/balloon/balloon-device.ts',
    { find: '    this.#doneUnseen ||= this.#owesDone;\n    this.showDone();\n', replace: '' },
    world('virtio, hold: a used page is written'),
  ),
  mutant(
    'DONE stands though the migration goes on',
    'the guest, which runs here again after a link has broken, uses its pages as they are; they are left out all the same (V5)',
    'src/balloon/balloon-device.ts',
    { find: '      this.registers.withdrawDone();\n', replace: '' },
    world('virtio, hold: the link breaks at any moment, and is restored'),
  ),
  mutant(
    'blocks are kept after DONE',
    'the driver takes DONE for another STOP (D10)',
    'src/balloon/report-driver.ts',
    { find: '    this.stop();\n    this.#options.source.release();', replace: '    this.stop();' },
    world('virtio, hold: a used page is written'),
  ),
  mutant(
    'a marker is known by its length alone',
    'a free range of 4 bytes that the device may write is taken for the id (V7; Firecracker)',
    'src/balloon/balloon-device.ts',
    {
      find: '          if (element.writable[s] !== 0) {\n            session.range',
      replace:
        '          if (element.writable[s] !== 0 && lengthBytes !== COMMAND_ID_BYTES) {\n            session.range',
    },
    unit('test/conformance/hinting.test.ts', 'V7'),
  ),
  mutant(
    'a page that is given back early is not written',
    'the guest expects its poison in a page that its host may have altered (D9)',
    'src/guest/runtime.ts',
    { find: 'forHolding(isVirtio)', replace: 'forHolding(false)' },
    unit('test/conformance/virtio.test.ts', 'D9'),
  ),
  mutant(
    'the guest stays stopped after a failure',
    'the migration has failed and so has the guest (I8)',
    PRECOPY,
    { find: '      this.#vm.resume();\n', replace: '' },
    world('the destination dies at any moment'),
  ),
  mutant(
    'the destination starts before the commit',
    'it has everything, so it starts (I10)',
    'src/migration/receiver.ts',
    {
      find: "    this.state = 'ready';\n    this.#reply({ type: 'ready', counts: this.counts });",
      replace:
        "    this.state = 'ready';\n    this.#reply({ type: 'ready', counts: this.counts });\n    this.commit();",
    },
    world('walk, wait: a used page is written'),
  ),
  mutant(
    'a cancel is heard after the commit',
    'the guest runs here again, and there (I10)',
    PRECOPY,
    { find: "    return !this.done && this.phase !== 'commit-wait';", replace: '    return !this.done;' },
    world('it is cancelled at any moment'),
  ),
  mutant(
    'the source resumes after an unanswered commit',
    'silence is taken for "not started" (I10)',
    PRECOPY,
    {
      find: "      this.phase = 'unknown';\n",
      replace: "      this.phase = 'unknown';\n      this.#vm.resume();\n",
    },
    world('a reply is lost'),
  ),
  mutant(
    'a destination that takes nothing is waited for',
    'no deadline on a link that has gone silent; found by the explorer in this engine (I6)',
    PRECOPY,
    {
      find: 'return this.#fullSince + this.#options.sendTimeoutMs; // until',
      replace: 'return Number.POSITIVE_INFINITY; // until',
    },
    world('the link is cut at any moment'),
  ),
  mutant(
    'no deadline for the stop sign',
    'a guest that never answers holds the migration up for ever (I6, C12)',
    PRECOPY,
    {
      find: 'const overdue = silent >= hintTimeoutMs || waited >= hintDeadlineMs || device.fault !== undefined;',
      replace:
        'const overdue = device.fault !== undefined && waited + silent + hintTimeoutMs + hintDeadlineMs > 0;',
    },
    unit('test/conformance/command-register.test.ts', 'C12'),
  ),
  mutant(
    'a done session counts as open again',
    'a ring that is corrupted after the stop sign has the host wait for ever; found by `lacuna stress` in this engine (I6)',
    PRECOPY,
    {
      find: '    return !session.expired && Number.isNaN(session.doneAt);',
      replace: '    return !session.expired && this.#device?.session.state !== HintState.done;',
    },
    unit('test/conformance/hinting.test.ts', 'corrupted after the stop sign'),
  ),
  mutant(
    'the used index is published before the entry',
    'the driver takes back a descriptor that the device has not named yet',
    'src/virtqueue/device-queue.ts',
    [
      {
        find: '    views.usedEntries[at] = head;\n',
        replace:
          '    views.used.store(RING_IDX, (this.#usedIdx + 1) & 0xffff);\n    views.usedEntries[at] = head;\n',
      },
    ],
    explorer('test/explorer/ring.test.ts', 'ARM, flags, size 2, from index 65535, 3 buffers, batches of 1'),
  ),
  mutant(
    'the event index is off by one',
    'the wake-up that was asked for does not come (Q7)',
    'src/virtqueue/layout.ts',
    { find: '  return ((newIdx - event - 1) & 0xffff) <', replace: '  return ((newIdx - event) & 0xffff) <' },
    explorer(
      'test/explorer/ring.test.ts',
      'ARM, EVENT_IDX, size 2, from index 65535, 3 buffers, batches of 1',
    ),
  ),
  mutant(
    'no second look before the sleep',
    'the device asks to be told and does not look again: what came in between is seen by nobody (Q7)',
    'src/virtqueue/device-queue.ts',
    {
      find: '    return this.refresh();\n  }\n\n  /** The le32',
      replace: '    return false;\n  }\n\n  /** The le32',
    },
    explorer('test/explorer/ring.test.ts', 'ARM, flags, size 2, from index 65535, 3 buffers, batches of 1'),
  ),
  mutant(
    'an old stop is taken for this one',
    'a vCPU that was told to run and to stop again before it woke up counts as stopped, and runs; found while a hang was looked into (I2, I10)',
    'src/memory/control-buffer.ts',
    {
      find: '    return wantedOf(request) === VcpuRequest.pause && this.words.load(VCPU_PAUSED_FOR) === request;',
      replace:
        '    return wantedOf(request) === VcpuRequest.pause && this.words.load(VCPU_STATE) === VcpuState.paused;',
    },
    explorer('test/explorer/sleepers.test.ts', 'stands still .4'),
  ),
  mutant(
    "the source takes the reader's word back",
    'the reader has said that it waits for the next frame, and the source takes that for the one before: it sleeps for good; found by `lacuna stress` in this engine, and its first mending by the explorer',
    'src/transport/memory.ts',
    {
      find: '    if (this.#words.load(READER_WAITING) !== 0) {',
      replace: '    if (this.#words.exchange(READER_WAITING, 0) !== 0) {',
    },
    explorer('test/explorer/sleepers.test.ts', 'no frame .4'),
  ),
  mutant(
    'a stream sleeps without a second look',
    'the thread of a stream says that it waits and does not look again: the frame that was put there in between is not rung for',
    'src/transport/network/stream-ring.ts',
    {
      find: '      if (words.load(WRITE_INDEX) === this.#readIndex) {\n        return false;\n      }\n    }',
      replace: '      return false;\n    }',
    },
    explorer('test/explorer/sleepers.test.ts', 'waits for it .2'),
  ),
  mutant(
    'room on a stream is not told',
    'the thread of a stream looks for a source that waits before it makes room: one that has just looked for it in vain sleeps',
    'src/transport/network/stream-ring.ts',
    {
      find: '    words.store(FLUSHED_BYTES, this.#flushedBytes);\n',
      replace:
        '    if (words.load(SOURCE_WAITING) === 0) {\n      words.store(FLUSHED_BYTES, this.#flushedBytes);\n      return;\n    }\n    words.store(FLUSHED_BYTES, this.#flushedBytes);\n',
    },
    explorer('test/explorer/sleepers.test.ts', 'waits for it .2'),
  ),
  mutant(
    'a poisoned page is filled with zeroes',
    'the guest finds zeroes in a free page where it left its poison, and takes that for a stray write (P5)',
    PRECOPY,
    {
      find: '    this.#emitFill(run.pfn, run.pageCount, this.accounts.poison, now);',
      replace: '    this.#emitFill(run.pfn, run.pageCount, 0, now);',
    },
    world('poisoned, hold: a held page is taken back and written'),
  ),
  mutant(
    'poison is written over older copies only',
    'what the destination never got is zero there, and was poison (P5)',
    'src/migration/page-accounts.ts',
    { find: '      const due = this.#poison === 0 ? stale : hit;', replace: '      const due = stale;' },
    world('poisoned, hold: a held page is taken back and written'),
  ),
  mutant(
    'poison_val can be changed at any time',
    'pages that were skipped read as one value, and the guest expects the other (P3)',
    'src/balloon/registers.ts',
    {
      find: '      if ((words.load(DEVICE_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK) === 0) {',
      replace: '      if ((words.load(DEVICE_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK) !== -1) {',
    },
    unit('test/conformance/page-poison.test.ts', 'P3'),
  ),
  mutant(
    'a fill that was lost is not sent again',
    'what a broken link has swallowed is taken to be pages only; the destination keeps an older copy of one that was freed (I7)',
    PRECOPY,
    {
      find: '    this.#channel.fillRun(pfn, pageCount, value);\n    this.accounts.unacknowledged.sent(pfn, pageCount);\n',
      replace: '    this.#channel.fillRun(pfn, pageCount, value);\n',
    },
    unit(RECOVERY, 'a fill that was lost'),
  ),
  mutant(
    'what was claimed counts as arrived',
    'after a break only what is still to be sent goes; what was on its way is lost (I7)',
    'src/migration/page-accounts.ts',
    {
      find: '      const unacknowledged = this.unacknowledged.bits(index);',
      replace: '      const unacknowledged = 0;',
    },
    unit(RECOVERY, 'everything, if it has not acknowledged any'),
  ),
  mutant(
    'zeroes that were lost count as arrived',
    'the destination holds what the page was before, and a hint after the break leaves it so (I7)',
    'src/migration/page-accounts.ts',
    { find: '        this.copied.words.or(index, unacknowledged);\n', replace: '' },
    unit(RECOVERY, 'zeroes that were lost'),
  ),
  mutant(
    'a new link is counted with the old one',
    'the two ends never agree on what was sent, and the commit is never given',
    PRECOPY,
    { find: '    Object.assign(this.#sentBefore, this.sent);\n', replace: '' },
    unit(RECOVERY, 'are numbered and counted anew'),
  ),
  mutant(
    'who never heard of a migration has not started it',
    'another destination answers, and the guest is resumed here while it runs at the first (I10)',
    PRECOPY,
    {
      find: "    if (message?.type === 'not-started') {",
      replace: "    if (message?.type === 'not-started' || message?.type === 'unknown-migration') {",
    },
    unit('test/unit/migration/handover.test.ts', 'and the destination is another'),
  ),
  mutant(
    'a destination that was never ready says "not started"',
    'a commit that was not meant for it is voided, and the guest is resumed here while it runs where it was (I10)',
    'src/migration/receiver.ts',
    { find: "this.state === 'discarded' && this.#wasReady", replace: "this.state === 'discarded'" },
    unit('test/unit/migration/receiver.test.ts', 'one that was never ready'),
  ),
  mutant(
    'the throttle outlives the migration',
    'it was called off, and the guest goes on at a fraction of its speed for ever (I8)',
    PRECOPY,
    {
      find: "    this.#throttle(0);\n    this.#stopSending(now, 'cancelled');",
      replace: "    this.#stopSending(now, 'cancelled');",
    },
    unit('test/unit/migration/auto-converge.test.ts', 'by a cancel in the midst of a round'),
  ),
  mutant(
    'the last round is paced like the others',
    'the cap for the switchover is in force for the calculation only',
    PRECOPY,
    { find: '        this.#pacer.changeRate(this.#switchoverBytesPerSecond, now);\n', replace: '' },
    unit('test/property/bandwidth.test.ts', 'sends the last round at the rate of the switchover'),
  ),
  mutant(
    'a stalled guest is stopped at once',
    'at whatever point of its oscillation that is: its downtime is several times of what it need be',
    'src/migration/convergence.ts',
    {
      find: "    return pendingPages <= Math.min(...this.#recent) * NEAR_MINIMUM ? 'stalled' : undefined;",
      replace: "    return 'stalled';",
    },
    unit('test/unit/migration/convergence.test.ts', 'is not fooled by an oscillation'),
  ),
  mutant(
    'a page that is left out keeps its bytes',
    'it is taken again and the same bytes are written: a comparison sees nothing, and the destination has zeroes (I9)',
    'src/memory/compared-memory.ts',
    {
      find: '    fillPages(this.#live, wordIndex, bits, value);\n    if (value === 0) {',
      replace: '    if (value !== 1) return;\n    if (value === 0) {',
    },
    unit('test/property/compared-memory.test.ts', 'brings every page over'),
  ),
  mutant(
    'nobody is told what is left out',
    'the same, by way of the engine (I9)',
    'src/migration/page-accounts.ts',
    { find: '      this.#leaveOut?.(word, hit, this.#poison);\n', replace: '' },
    unit('test/property/compared-memory.test.ts', 'brings every page over'),
  ),
  mutant(
    'what differs is marked, and not copied',
    'the shadow that is sent is not what the guest wrote (I9)',
    'src/memory/compared-memory.ts',
    { find: '        shadow.set(bytes, at + from);\n', replace: '' },
    unit('test/property/compared-memory.test.ts', 'brings every page over'),
  ),
  mutant(
    'what was left out is sent as it was before',
    'in the next attempt: the guest has zeroes there, and the destination gets the old bytes (I9)',
    'src/memory/compared-memory.ts',
    { find: '      this.#freshen(at >>> 5, bitMask(first, pages));\n', replace: '' },
    unit('test/property/compared-memory.test.ts', 'brings every page over'),
  ),
];
