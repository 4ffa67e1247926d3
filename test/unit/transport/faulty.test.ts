import { expect, it } from 'vitest';
import { EventWord } from '../../../src/memory/control-buffer.js';
import { PAGE_SIZE } from '../../../src/memory/page.js';
import { atomicMapper } from '../../../src/memory/shared-words.js';
import { FaultyChannel, MOST_PIECES, type TransportFaults } from '../../../src/transport/faulty.js';
import type { DestinationMessage, SourceChannel } from '../../../src/wire/channel.js';

/** What arrives at the other end, a line a frame. */
class Recorder implements SourceChannel {
  readonly frames: string[] = [];
  readonly pages: { pfn: number; pageCount: number; first: number; last: number; bytes: number }[] = [];
  readonly replies: DestinationMessage[] = [];
  writable = true;
  readonly unflushedBytes = 12;

  poll(): DestinationMessage | undefined {
    return this.replies.shift();
  }
  pageRun(pfn: number, pageCount: number, payload: Uint8Array): void {
    this.pages.push({ pfn, pageCount, first: payload[0]!, last: payload.at(-1)!, bytes: payload.length });
    this.frames.push(`pages ${pfn}+${pageCount}`);
  }
  zeroRun(pfn: number, pageCount: number): void {
    this.frames.push(`zero ${pfn}+${pageCount}`);
  }
  fillRun(pfn: number, pageCount: number, value: number): void {
    this.frames.push(`fill ${pfn}+${pageCount}=${value}`);
  }
  roundEnd(round: number): void {
    this.frames.push(`round ${round}`);
  }
  deviceState(state: Uint8Array): void {
    this.frames.push(`state ${state.length}`);
  }
  finish(): void {
    this.frames.push('finish');
  }
  commit(): void {
    this.frames.push('commit');
  }
  withdraw(): void {
    this.frames.push('withdraw');
  }

  cancel(): void {
    this.frames.push('cancel');
  }
}

const READY: DestinationMessage = {
  type: 'ready',
  counts: { pages: 1, zeroPages: 2, filledPages: 3, rounds: 4 },
};
const STARTED: DestinationMessage = { type: 'started', startedAt: 1 };

function faulty(faults: TransportFaults, random: () => number = () => 0.999) {
  const inner = new Recorder();
  const event = new EventWord(atomicMapper);
  return { inner, event, channel: new FaultyChannel(inner, event, faults, random) };
}

/** Pages whose every byte is their pfn. */
function payload(pfn: number, pageCount: number): Uint8Array {
  const bytes = new Uint8Array(pageCount * PAGE_SIZE);
  for (let page = 0; page < pageCount; page += 1) {
    bytes.fill(pfn + page, page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
  }
  return bytes;
}

/** Every kind of frame once. */
function sendAll(channel: SourceChannel): void {
  channel.pageRun(10, 4, payload(10, 4));
  channel.zeroRun(20, 5);
  channel.fillRun(30, 6, 7);
  channel.roundEnd(1);
  channel.deviceState(new Uint8Array(9));
  channel.finish();
  channel.commit();
  channel.withdraw();
  channel.cancel();
}
const ALL = [
  'pages 10+4',
  'zero 20+5',
  'fill 30+6=7',
  'round 1',
  'state 9',
  'finish',
  'commit',
  'withdraw',
  'cancel',
];

it('passes everything on unchanged when nothing is wrong', () => {
  const { inner, channel } = faulty({});
  inner.replies.push(READY, STARTED);
  sendAll(channel);
  expect(inner.frames).toEqual(ALL);
  expect([channel.poll(), channel.poll(), channel.poll()]).toEqual([READY, STARTED, undefined]);
  expect(channel.writable).toBe(true);
  inner.writable = false;
  expect(channel.writable).toBe(false);
  expect(channel.unflushedBytes).toBe(12);
  expect(channel.counts).toEqual({ failed: 0, stalled: 0, split: 0, lost: 0 });
});

it.each([0, 1, 4, 7])(
  'a link that breaks at frame %i loses that one and all after it, and says so once',
  (at) => {
    const { inner, event, channel } = faulty({ failAtFrame: at });
    inner.replies.push(READY);
    const before = event.value();
    sendAll(channel);
    expect(inner.frames).toEqual(ALL.slice(0, at));
    expect(event.value()).toBe(before + 1);
    inner.writable = false;
    expect(channel.writable).toBe(true); // a link that is gone takes anything
    expect(channel.poll()).toEqual({ type: 'error', reason: 'the link broke' });
    expect(channel.poll()).toBeUndefined();
    expect(channel.counts.failed).toBe(1);
  },
);

it('a link that would break later than there are frames does not', () => {
  const { inner, channel } = faulty({ failAtFrame: ALL.length });
  sendAll(channel);
  expect(inner.frames).toEqual(ALL);
  expect(channel.counts.failed).toBe(0);
  expect(channel.poll()).toBeUndefined();
});

it('a stall begins at its frame, ends by itself, and rings when it does', async () => {
  const { event, channel } = faulty({ stall: { atFrame: 1, ms: 5 } });
  expect(channel.writable).toBe(true);
  channel.zeroRun(0, 1);
  expect(channel.counts.stalled).toBe(0);
  const seen = event.value();
  expect(channel.writable).toBe(false);
  expect(channel.writable).toBe(false);
  await event.next(seen);
  expect(channel.writable).toBe(true);
  channel.zeroRun(1, 1);
  expect(channel.writable).toBe(true); // once is enough
  expect(channel.counts.stalled).toBe(1);
});

it('a stall for ever has no timer, and one that is ended early rings nobody', async () => {
  const forever = faulty({ stall: { atFrame: 0, ms: Number.POSITIVE_INFINITY } });
  expect(forever.channel.writable).toBe(false);
  const early = faulty({ stall: { atFrame: 0, ms: 1 } });
  expect(early.channel.writable).toBe(false);
  early.channel.end();
  await new Promise((resolve) => {
    setTimeout(resolve, 20);
  });
  expect(early.event.value()).toBe(0);
  expect(forever.channel.writable).toBe(false);
});

it.each(['ready', 'started'] as const)('"%s" is lost, and nothing else', (loses) => {
  const { inner, channel } = faulty({ loses });
  const error: DestinationMessage = { type: 'error', reason: 'x' };
  inner.replies.push(READY, STARTED, error);
  const heard = [channel.poll(), channel.poll(), channel.poll()];
  expect(heard).toEqual(
    [READY, STARTED, error].map((message) => (message.type === loses ? undefined : message)),
  );
  expect(channel.counts.lost).toBe(1);
});

it('pieces of a run are all of it, in order, each with its own contents, and never too many', () => {
  let state = 0;
  const { inner, channel } = faulty({ pieces: MOST_PIECES }, () => {
    state = (state + 0.381_966) % 1;
    return state;
  });
  let pfn = 0;
  for (const pageCount of [1, 2, 3, 8, 9, 64, 120]) {
    const from = inner.pages.length;
    channel.pageRun(pfn, pageCount, payload(pfn, pageCount));
    const pieces = inner.pages.slice(from);
    expect(pieces.length).toBeLessThanOrEqual(MOST_PIECES);
    for (const piece of pieces) {
      expect(piece).toEqual({
        pfn,
        pageCount: piece.pageCount,
        first: pfn & 0xff,
        last: (pfn + piece.pageCount - 1) & 0xff,
        bytes: piece.pageCount * PAGE_SIZE,
      });
      expect(piece.pageCount).toBeGreaterThan(0);
      pfn += piece.pageCount;
    }
    expect(pieces.reduce((sum, piece) => sum + piece.pageCount, 0)).toBe(pageCount);
  }
  channel.zeroRun(500, 40);
  channel.fillRun(600, 40, 3);
  const total = (kind: string): number =>
    inner.frames
      .filter((frame) => frame.startsWith(kind))
      .reduce((sum, frame) => sum + Number(/\+(\d+)/.exec(frame)![1]), 0);
  expect([total('zero'), total('fill')]).toEqual([40, 40]);
  expect(channel.counts.split).toBeGreaterThan(3);
  expect(channel.counts.split).toBeLessThanOrEqual(8); // the run of one page can't be cut
});

it('a run is one frame to the fault that counts them, in however many pieces', () => {
  const { inner, channel } = faulty({ pieces: MOST_PIECES, failAtFrame: 2 });
  channel.zeroRun(0, 100);
  channel.zeroRun(100, 100);
  const passed = inner.frames.length;
  expect(passed).toBe(2 * MOST_PIECES);
  channel.zeroRun(200, 100);
  expect(inner.frames).toHaveLength(passed);
});
