import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GIB, MIB, PAGE_SIZE } from '../../src/memory/page.js';
import { RamLayout } from '../../src/memory/ram-layout.js';
import type { ListenOptions } from '../../src/transport/network/migration-listener.js';
import { encodeFrame, FrameType } from '../../src/wire/frames.js';
import { encodeHello } from '../../src/wire/hello.js';
import {
  DEVICE_STATE,
  Ends,
  GUEST_LAYOUT,
  HandMade,
  helloOf,
  sameMemory,
  TestDestination,
  TestSource,
  until,
} from '../support/network.js';
import { sharedKey } from '../support/tls-settings.js';

/** Peers that do what no source does. Each is refused, and the destination goes on serving: `stillServes` is part of every test. */
let ends: Ends;
let destination: TestDestination;
beforeEach(() => {
  ends = new Ends();
});
afterEach(() => ends.end());

async function listen(options: Partial<ListenOptions> = {}): Promise<TestDestination> {
  destination = ends.add(await TestDestination.listen(options), ({ listener }) => listener.close());
  return destination;
}

async function peer(epoch?: number): Promise<HandMade> {
  return ends.add(await HandMade.connect(destination.port, epoch), (made) => made.close());
}

/** A peer that is receiving's source, with its one stream joined. */
async function admitted(id = 7, epoch = 1): Promise<{ control: HandMade; stream: HandMade }> {
  const control = await peer(epoch);
  const { tickets } = await control.hello({ migrationId: new Uint8Array(16).fill(id), resumes: epoch > 1 });
  const stream = ends.add(await control.join(tickets[0]!), (made) => made.close());
  await until(() => destination.events.some(({ type }) => type === 'receiving'), 'the streams to join');
  return { control, stream };
}

/** A whole migration goes through. */
async function stillServes(tls = false): Promise<void> {
  const endpoint = { host: '127.0.0.1', port: destination.port, ...(tls ? { tls: sharedKey() } : {}) };
  const source = ends.add(await TestSource.connect(destination.port, { endpoint }), ({ channel }) =>
    channel.close(),
  );
  source.send(0, GUEST_LAYOUT.pageCount, 0x11);
  await source.finish(1);
  source.channel.commit();
  expect(await source.message()).toMatchObject({ type: 'started' });
  expect(sameMemory(source.memory, destination.guests.at(-1)!.memory)).toBe(true);
}

/** The same where the destination has so little patience that an honest peer may need another attempt. */
async function servesEventually(tls = false): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await stillServes(tls);
      return;
    } catch (thrown) {
      if (attempt === 50) {
        throw thrown;
      }
    }
  }
}

/** The migration under way was ended by what its peer did. */
async function ended(control: HandMade, words: RegExp): Promise<void> {
  expect(await control.refusal()).toMatch(words);
  await until(() => destination.outcomes.length === 1, 'the migration to be given up');
  expect(destination.outcomes).toEqual(['voided']);
  expect(destination.guests[0]!.starts).toBe(0);
}

describe('a first frame that is none', () => {
  it.each<[string, (made: HandMade) => void, RegExp]>([
    ['of garbage', (made) => made.bytes(randomBytes(64).fill(0, 0, 1)), /not a frame of lacuna/],
    [
      'of another protocol',
      (made) => made.bytes('GET / HTTP/1.1\r\nHost: here\r\nAccept: */*\r\n\r\n'),
      /not a frame of lacuna/,
    ],
    ['a commit', (made) => made.send(FrameType.commit), /first frame of a connection is a frame "commit"/],
    ['a ping', (made) => made.send(FrameType.ping), /first frame/],
    ['a page', (made) => made.page(0, 1), /first frame/],
    ['one that may be skipped', (made) => made.send(0x8001), /first frame/],
    ['of an unknown type', (made) => made.send(0x7777), /unknown type/],
    ['of epoch 0', (made) => made.send(FrameType.hello, { epoch: 0 }, encodeHello(helloOf())), /epoch 0/],
    [
      'not the first by its number',
      (made) => made.send(FrameType.hello, { sequence: 3 }, encodeHello(helloOf())),
      /number 3/,
    ],
    [
      'a join with no good ticket',
      (made) => made.send(FrameType.join, {}, new Uint8Array(16)),
      /ticket is not good/,
    ],
  ])('%s is refused', async (_what, send, words) => {
    await listen();
    const made = await peer();
    send(made);
    expect(await made.refusal()).toMatch(words);
    expect(await destination.event('refused')).toMatchObject({ text: expect.stringMatching(words) });
    await stillServes();
  });

  it.each([
    ['hello', FrameType.hello],
    ['join', FrameType.join],
  ])('a %s with a payload of 4 GiB is refused by its header', async (_name, type) => {
    await listen();
    const made = await peer();
    const frame = encodeFrame({ type, sequence: 0, epoch: 1 });
    new DataView(frame.buffer).setUint32(24, 0xffff_ffff, true);
    made.bytes(frame);
    expect(await made.refusal()).toMatch(/4294967295 bytes of payload/);
    await stillServes();
  });
});

describe('a hello', () => {
  /** A hello with `bytes` at `at` of its payload. */
  async function forged(at: number, ...words: number[]): Promise<string> {
    const made = await peer();
    const payload = encodeHello(helloOf());
    const view = new DataView(payload.buffer);
    words.forEach((word, i) => {
      view.setUint32(at + i * 4, word, true);
    });
    made.send(FrameType.hello, {}, payload);
    return made.refusal();
  }

  it.each<[string, number, number[], RegExp]>([
    ['of 2^60 bytes of memory', 80, [0, 0, 0, 2 ** 28], /blocks are whole pages/],
    ['of blocks that are none', 80, [4096, 0, 4096, 0], /blocks are whole pages/],
    ['of more blocks than there are bytes for', 64, [0xffff_ffff], /blocks of memory/],
    ['with a label of 4 GiB', 68, [0xffff_ffff], /texts/],
    ['of version 9', 0, [9 | (9 << 16)], /versions 9 to 9/],
    ['that requires what nobody knows', 4, [0x8000_0000], /bits 31/],
    ['of pages of 64 KiB', 12, [65_536], /pages of 65536/],
    ['for a million streams', 16, [1_000_000], /1000000 streams/],
    ['with unknown flags', 20, [4], /unknown flags/],
  ])('%s is refused', async (_what, at, words, refusal) => {
    await listen();
    expect(await forged(at, ...words)).toMatch(refusal);
    expect(destination.guests).toEqual([]);
    await stillServes();
  });

  it.each([
    ['16 TiB', new RamLayout([{ startGpa: 0, endGpa: 16 * 1024 * GIB }]), /at the most/],
    [
      'one page behind a hole of a TiB',
      new RamLayout([
        { startGpa: 0, endGpa: PAGE_SIZE },
        { startGpa: 1024 * GIB, endGpa: 1024 * GIB + PAGE_SIZE },
      ]),
      /holes/,
    ],
  ])('for %s has nothing allocated for it', async (_what, layout, words) => {
    await listen({ limits: { memoryBytes: GIB } });
    const made = await peer();
    made.send(FrameType.hello, {}, encodeHello(helloOf({ layout })));
    expect(await made.refusal()).toMatch(words);
    expect(destination.guests).toEqual([]);
    await stillServes();
  });

  it('without TLS, where TLS is asked for, has nothing allocated for it', async () => {
    await listen({ tls: sharedKey() });
    const made = await peer();
    made.send(FrameType.hello, {}, encodeHello(helloOf()));
    expect(await made.refusal()).toMatch(/takes TLS only/);
    expect(destination.guests).toEqual([]);
    await stillServes(true);
  });

  it('that comes twice ends the migration', async () => {
    await listen();
    const { control } = await admitted();
    control.send(FrameType.hello, {}, encodeHello(helloOf()));
    await ended(control, /out of place/);
    await stillServes();
  });

  it('of an old epoch is refused, and the migration goes on', async () => {
    await listen();
    const { control, stream } = await admitted(7, 5);
    for (const epoch of [5, 4, 1]) {
      const late = await peer(epoch);
      late.send(FrameType.hello, {}, encodeHello(helloOf({ resumes: true })));
      expect(await late.refusal()).toMatch(/is over: a connection of epoch 5/);
    }
    stream.send(FrameType.roundEnd, { value: 1 });
    expect(await control.next()).toMatchObject({ type: FrameType.applied, value: 1 });
  });

  it('of the same migration with other memory is refused', async () => {
    await listen();
    await admitted();
    const made = await peer(2);
    const layout = new RamLayout([{ startGpa: 0, endGpa: 2 * MIB }]);
    made.send(FrameType.hello, {}, encodeHello(helloOf({ resumes: true, layout })));
    expect(await made.refusal()).toMatch(/does not lie where it lay before/);
  });

  it('that says a commit has left, of which nobody knows, is not welcomed to send anything', async () => {
    await listen();
    const made = await peer();
    expect(await made.hello({ resumes: true, committed: true })).toMatchObject({
      status: 'unknown',
      tickets: [],
    });
    made.send(FrameType.withdraw);
    expect(await made.next()).toMatchObject({ type: FrameType.unknownMigration });
    made.send(FrameType.deviceState, {}, DEVICE_STATE);
    expect(await made.refusal()).toMatch(/only its outcome/);
    expect(destination.guests).toEqual([]);
    await stillServes();
  });
});

describe('frames in a wrong order', () => {
  it.each<[string, (control: HandMade, stream: HandMade) => void, RegExp]>([
    ['a commit before ready', (control) => control.send(FrameType.commit), /commit/],
    [
      'the end of the data without a device state',
      (control) => control.send(FrameType.finish, { value: 0 }),
      /out of turn/,
    ],
    [
      'two device states',
      (control) => {
        control.send(FrameType.deviceState, {}, DEVICE_STATE);
        control.send(FrameType.deviceState, {}, DEVICE_STATE);
      },
      /out of turn/,
    ],
    [
      'an answer of a destination',
      (control) => control.send(FrameType.started, {}, new Uint8Array(8)),
      /out of place/,
    ],
    ['a page on the control connection', (control) => control.page(0, 1), /out of place/],
    ['a frame of another epoch', (control) => control.send(FrameType.ping, { epoch: 2 }), /epoch 2/],
    ['a frame that is repeated', (control) => control.send(FrameType.ping, { sequence: 0 }), /number 0/],
    [
      'a device state of 4 GiB',
      (control) => {
        const frame = encodeFrame({ type: FrameType.deviceState, sequence: control.sequence, epoch: 1 });
        new DataView(frame.buffer).setUint32(24, 0xffff_ffff, true);
        control.bytes(frame);
      },
      /4294967295 bytes/,
    ],
    [
      'a page that the guest does not have',
      (_control, stream) => stream.page(GUEST_LAYOUT.pageCount, 1),
      /not RAM of this guest/,
    ],
    [
      'a run across the end of its memory',
      (_control, stream) => stream.send(FrameType.zero, { pfn: GUEST_LAYOUT.pageCount - 1, pageCount: 2 }),
      /not RAM of this guest/,
    ],
    [
      'a run of 2^32 pages',
      (_control, stream) => stream.send(FrameType.zero, { pfn: 0, pageCount: 0xffff_ffff }),
      /4294967295 pages/,
    ],
    [
      'a run beyond the last address',
      (_control, stream) => stream.send(FrameType.zero, { pfn: 0xffff_fff0, pageCount: 256 }),
      /beyond the last page/,
    ],
    [
      'a round that is left out',
      (_control, stream) => stream.send(FrameType.roundEnd, { value: 2 }),
      /round/,
    ],
    [
      'a compressed run that was not agreed on',
      (_control, stream) =>
        stream.send(FrameType.compressedPages, { pageCount: 1, value: 1 }, new Uint8Array(8)),
      /not agreed on/,
    ],
    ['a commit on a stream', (_control, stream) => stream.send(FrameType.commit), /out of place/],
    [
      'a round after the last',
      (control, stream) => {
        stream.send(FrameType.roundEnd, { value: 1 });
        stream.send(FrameType.roundEnd, { value: 2 });
        control.send(FrameType.deviceState, {}, DEVICE_STATE);
        control.send(FrameType.finish, { value: 1 });
      },
      /out of turn/,
    ],
  ])('%s ends the migration', async (what, send, words) => {
    await listen();
    const { control, stream } = await admitted();
    send(control, stream);
    if (what === 'a round after the last') {
      await until(() => destination.outcomes.length === 1 || control.frames.length > 1, 'the rounds');
    }
    await ended(control, words);
    await stillServes();
  });
});

describe('connections', () => {
  it('that say nothing are closed, and so are those that trickle', async () => {
    await listen({ timeouts: { handshakeMs: 100 } });
    const silent = await peer();
    const trickling = await peer();
    const hello = encodeFrame({ type: FrameType.hello, sequence: 0, epoch: 1 }, encodeHello(helloOf()));
    let sent = 0;
    const drip = setInterval(() => trickling.bytes(hello.subarray(sent++, sent)), 10);
    await Promise.all([silent.refusal(), trickling.refusal()]);
    clearInterval(drip);
    expect(sent).toBeLessThan(hello.length);
    expect(destination.events.filter(({ text }) => /after 100 ms/.test(text))).toHaveLength(2);
    await servesEventually();
  });

  it('that begin TLS and do not go on are closed', async () => {
    await listen({ tls: sharedKey(), timeouts: { handshakeMs: 50 } });
    const made = await peer();
    made.bytes(new Uint8Array([0x16, 3, 1]));
    await until(() => made.closed, 'the connection to be closed');
    await servesEventually(true);
  });

  it('in a flood push each other out, and nobody who has something to say', async () => {
    await listen({ timeouts: { handshakeMs: 600_000 } });
    const idle: HandMade[] = [];
    for (let i = 0; i < 200; i += 1) {
      idle.push(await peer());
    }
    await until(() => idle.filter(({ closed }) => closed).length >= 184, 'all but 16 to be closed');
    await stillServes();
    const flood = setInterval(() => void peer().catch(() => undefined), 1);
    await stillServes();
    clearInterval(flood);
  });

  it('of a source that goes silent are given up, and another is served', async () => {
    await listen({ timeouts: { silenceMs: 500, keepMs: 50 } });
    await admitted();
    expect(await destination.event('discarded')).toMatchObject({
      text: expect.stringMatching(/did not come back/),
    });
    const { status } = await (await peer()).hello({ migrationId: new Uint8Array(16).fill(8) });
    expect(status).toBe('fresh');
  });

  it('of streams that never join are given up', async () => {
    await listen({ timeouts: { handshakeMs: 50, keepMs: 50 } });
    const control = await peer();
    await control.hello({ streams: 2 });
    expect(await destination.event('lost')).toMatchObject({ text: expect.stringMatching(/did not join/) });
    await destination.event('discarded');
    await servesEventually();
  });

  it('that ask what became of migrations are limited', async () => {
    await listen();
    const asking: HandMade[] = [];
    for (let i = 0; i < 40; i += 1) {
      const made = await peer();
      await made.hello({ resumes: true, committed: true, migrationId: new Uint8Array(16).fill(i) });
      asking.push(made);
    }
    await until(() => asking.filter(({ closed }) => closed).length >= 24, 'the oldest to be closed');
    await stillServes();
  });

  it('with a million pings are closed, while the event loop goes on', async () => {
    await listen();
    const { control } = await admitted();
    let turns = 0;
    const turn = setInterval(() => {
      turns += 1;
    }, 1);
    const pings = new Uint8Array(1000 * 32);
    for (let sent = 0; sent < 1_000_000 && !control.closed; sent += 1000) {
      for (let i = 0; i < 1000; i += 1) {
        const ping = encodeFrame({ type: FrameType.ping, sequence: control.sequence, epoch: 1 });
        control.sequence += 1;
        pings.set(ping, i * 32);
      }
      control.bytes(pings.slice());
      await new Promise(setImmediate);
    }
    clearInterval(turn);
    await ended(control, /frames in a second/);
    expect(control.frames.filter(({ type }) => type === FrameType.pong).length).toBeLessThan(300);
    expect(turns).toBeGreaterThan(0);
    await stillServes();
  });
});

describe('tickets', () => {
  it('are good once, in their epoch, for their stream', async () => {
    await listen();
    const control = await peer();
    const { tickets } = await control.hello({ streams: 2 });
    await control.join(tickets[0]!, 0);
    for (const [index, ticket, epoch] of [
      [0, tickets[0]!, 1],
      [1, tickets[0]!, 1],
      [1, tickets[1]!, 2],
      [2, tickets[1]!, 1],
    ] as const) {
      const thief = await peer(epoch);
      thief.send(FrameType.join, { value: index }, ticket);
      expect(await thief.refusal()).toMatch(/ticket is not good/);
    }
    await control.join(tickets[1]!, 1);
    await destination.event('receiving');
  });

  it('with more behind them than was asked for are refused', async () => {
    await listen();
    const control = await peer();
    const { tickets } = await control.hello();
    const stream = await peer();
    const join = encodeFrame({ type: FrameType.join, sequence: 0, epoch: 1 }, tickets[0]!);
    stream.bytes(new Uint8Array([...join, 1, 2, 3]));
    expect(await stream.refusal()).toMatch(/ticket|waited|wait/);
  });

  it('of an older link are not good any more', async () => {
    await listen();
    const control = await peer();
    const { tickets, nonce } = await control.hello();
    const again = await peer(2);
    await again.hello({ resumes: true, nonce });
    for (const epoch of [1, 2]) {
      const late = await peer(epoch);
      late.send(FrameType.join, {}, tickets[0]!);
      expect(await late.refusal()).toMatch(/ticket is not good/);
    }
  });
});

describe('a stream that breaks', () => {
  it('takes the link with it, and the link can be made again', async () => {
    await listen();
    const { control, stream } = await admitted();
    stream.close();
    expect(await destination.event('lost')).toMatchObject({ text: expect.stringMatching(/stream 0/) });
    await until(() => control.closed, 'the control connection to be closed');
    expect(await (await peer(2)).hello({ resumes: true })).toMatchObject({ status: 'kept' });
  });

  it('because its source has called the migration off is no break', async () => {
    await listen();
    const { control, stream } = await admitted();
    stream.close();
    control.send(FrameType.cancel);
    await destination.event('discarded');
    expect(destination.events.map(({ type }) => type)).not.toContain('lost');
  });
});

describe('a link that another has replaced', () => {
  it('applies nothing more, whatever still arrives of it', async () => {
    await listen();
    const { control, stream } = await admitted();
    stream.page(0, 1);
    stream.send(FrameType.roundEnd, { value: 1 });
    expect(await control.next()).toMatchObject({ type: FrameType.applied });
    const again = await peer(2);
    // Under way while the hello is: it was sent before, and may arrive after.
    stream.page(1, 0xee);
    again.send(FrameType.hello, {}, encodeHello(helloOf({ resumes: true })));
    const { payload } = await again.next();
    const wasThere = destination.guests[0]!.memory.pages(1, 1)[0];
    for (let i = 0; i < 100; i += 1) {
      stream.page(2, 0xee);
      control.send(FrameType.cancel);
    }
    const [ticket] = [payload.subarray(48, 64)];
    const next = await again.join(ticket!);
    next.page(3, 3);
    next.send(FrameType.roundEnd, { value: 1 });
    expect(await again.next()).toMatchObject({ type: FrameType.applied, value: 1 });
    await until(() => control.closed && stream.closed, 'the old link to be closed');
    const byteOf = (pfn: number): number => destination.guests[0]!.memory.pages(pfn, 1)[0]!;
    expect([byteOf(0), byteOf(1), byteOf(2), byteOf(3)]).toEqual([1, wasThere, 0, 3]);
    expect(destination.outcomes).toEqual([]);
  });

  it('by two at once is the later one', async () => {
    await listen();
    const { control } = await admitted();
    const second = await peer(2);
    const third = await peer(3);
    second.send(FrameType.hello, {}, encodeHello(helloOf({ resumes: true })));
    third.send(FrameType.hello, {}, encodeHello(helloOf({ resumes: true })));
    expect(await third.next()).toMatchObject({ type: FrameType.welcome });
    await until(() => control.closed && second.closed, 'the others to be closed');
    expect(third.closed).toBe(false);
    expect(destination.guests).toHaveLength(1);
  });
});

describe('a commit', () => {
  /** Everything is there, and *ready* was said. */
  async function ready(): Promise<{ control: HandMade; nonce: Uint8Array }> {
    const control = await peer();
    const { tickets, nonce } = await control.hello();
    const stream = await control.join(tickets[0]!);
    stream.send(FrameType.roundEnd, { value: 1 });
    control.send(FrameType.deviceState, {}, DEVICE_STATE);
    control.send(FrameType.finish, { value: 1 });
    expect(await control.next()).toMatchObject({ type: FrameType.applied });
    expect(await control.next()).toMatchObject({ type: FrameType.ready });
    return { control, nonce };
  }

  it('that is given a hundred times starts the guest once, and is answered every time', async () => {
    await listen();
    const { control } = await ready();
    for (let i = 0; i < 100; i += 1) {
      control.send(FrameType.commit);
    }
    const answers = await Promise.all(Array.from({ length: 100 }, () => control.next()));
    expect(answers.every(({ type }) => type === FrameType.started)).toBe(true);
    expect(destination.guests[0]!.starts).toBe(1);
  });

  it('that does not wait for the welcome of a new link is refused', async () => {
    await listen();
    const { nonce } = await ready();
    const hasty = await peer(2);
    hasty.send(FrameType.hello, {}, encodeHello(helloOf({ resumes: true, nonce })));
    hasty.send(FrameType.commit);
    expect(await hasty.refusal()).toMatch(/before the welcome/);
    expect(destination.guests[0]!.starts).toBe(0);
    await stillServes();
  });

  it('that was taken back never starts the guest, on whatever connection it comes', async () => {
    await listen();
    const { control, nonce } = await ready();
    control.send(FrameType.withdraw);
    control.send(FrameType.commit);
    expect(await control.next()).toMatchObject({ type: FrameType.notStarted });
    expect(await control.next()).toMatchObject({ type: FrameType.notStarted });
    const again = await peer(2);
    expect(await again.hello({ resumes: true, committed: true, nonce })).toMatchObject({ status: 'settled' });
    again.send(FrameType.commit);
    expect(await again.next()).toMatchObject({ type: FrameType.notStarted });
    const anew = await peer(3);
    anew.send(FrameType.hello, {}, encodeHello(helloOf({ resumes: true, nonce })));
    expect(await anew.refusal()).toMatch(/is over here/);
    expect(destination.guests[0]!.starts).toBe(0);
  });

  it('to another instance is not known, though this one knows of the migration', async () => {
    await listen();
    const { control } = await ready();
    control.send(FrameType.withdraw);
    expect(await control.next()).toMatchObject({ type: FrameType.notStarted });
    await until(() => destination.outcomes.length === 1, 'the end');
    // Its source began anew elsewhere, and committed there: "not started" would be a lie (I10).
    const again = await peer(9);
    const nonce = new Uint8Array(16).fill(1);
    expect(await again.hello({ resumes: true, committed: true, nonce })).toMatchObject({ status: 'unknown' });
  });

  it('to one who was another instance is not known', async () => {
    await listen();
    await ready();
    const again = await peer(2);
    const nonce = new Uint8Array(16).fill(1);
    expect(await again.hello({ resumes: true, committed: true, nonce })).toMatchObject({ status: 'unknown' });
    again.send(FrameType.commit);
    expect(await again.next()).toMatchObject({ type: FrameType.unknownMigration });
    expect(destination.guests[0]!.starts).toBe(0);
  });
});
