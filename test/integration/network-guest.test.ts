import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  type Arrival,
  atomicMapper,
  connectGuest,
  connectMigration,
  EventWord,
  type ListenerEvent,
  MemoryPool,
  type MigrateRequest,
  type MigrationListener,
  migrate,
  type NetworkChannel,
  type PrecopySource,
  type ReceiveOptions,
  receiveGuests,
  type TlsSettings,
  type WorkerGuest,
} from '../../dist/src/index.js';
import { ControlBuffer } from '../../dist/src/memory/control-buffer.js';
import { newThreads, type ThreadSource } from '../../dist/src/vmm/threads.js';
import type { GuestThreadData } from '../../dist/src/vmm/worker-guest.js';
import { Bench } from '../support/guests.js';
import { CuttableNetwork, Ends, until } from '../support/network.js';
import { certificateOf, sharedKey } from '../support/tls-settings.js';

/** Built-in guests that move between two hosts which share nothing but a network; here they are in one process. */
let bench: Bench;
let ends: Ends;
beforeEach(() => {
  bench = new Bench();
  ends = new Ends();
});
afterEach(async () => {
  await ends.end();
  await bench.close();
});

interface Host {
  readonly listener: MigrationListener;
  readonly arrivals: Arrival[];
  readonly events: ListenerEvent[];
  readonly pool: MemoryPool;
}

async function host(options: Partial<ReceiveOptions> = {}): Promise<Host> {
  const arrivals: Arrival[] = [];
  const events: ListenerEvent[] = [];
  const pool = new MemoryPool();
  const listener = await receiveGuests({
    host: '127.0.0.1',
    port: 0,
    pool,
    oracle: true,
    holdAtStart: true,
    onRunning: (arrival) => {
      arrivals.push(arrival);
      ends.add(arrival.guest, (guest) => guest.stop());
    },
    onEvent: (event) => events.push(event),
    ...options,
  });
  ends.add(listener, () => listener.close());
  return { listener, arrivals, events, pool };
}

async function channelTo(
  guest: WorkerGuest,
  port: number,
  tls?: TlsSettings,
  streams = 2,
): Promise<NetworkChannel> {
  const channel = await connectGuest(guest, {
    endpoint: { host: 'localhost', port, ...(tls === undefined ? {} : { tls }) },
    streams,
    label: 'a guest of the tests',
    retry: { firstMs: 10, mostMs: 50 },
  });
  return ends.add(channel, () => channel.close());
}

function move(
  guest: WorkerGuest,
  channel: NetworkChannel,
  request: Partial<MigrateRequest> = {},
): Promise<PrecopySource> {
  return migrate({
    ...request,
    vm: guest,
    channel,
    event: guest.event,
    onEvent: (event) => {
      if (event.type === 'session-issued') {
        guest.oracle?.sessionIssued(event.id);
      }
      request.onEvent?.(event);
    },
  });
}

/** Nothing was lost on the way, and the guest goes on where it is. */
async function expectArrived(guest: WorkerGuest, { arrivals }: Host): Promise<WorkerGuest> {
  await until(() => arrivals.length === 1, 'the guest to arrive');
  const [{ guest: arrived }] = arrivals as [Arrival];
  const pages = await bench.verifier.compare(guest, arrived);
  expect(pages).toMatchObject({ pagesDifferent: 0, firstDifferentPfn: -1 });
  arrived.run();
  await until(() => arrived.running, 'the guest to run');
  expect(await arrived.selfCheck()).toMatchObject({ badPages: 0, badPfn: -1 });
  return arrived;
}

describe('a guest that moves over the network', () => {
  it.each<[string, TlsSettings | undefined, TlsSettings | undefined, number]>([
    ['over one stream', undefined, undefined, 1],
    ['over four', undefined, undefined, 4],
    ['by TLS with certificates', certificateOf('source'), certificateOf('destination'), 2],
    ['by TLS with a pre-shared key', sharedKey(), sharedKey(), 2],
  ])('%s arrives whole, hints and all', async (_how, tls, theirs, streams) => {
    const there = await host({ tls: theirs });
    const guest = await bench.guest({ workload: { kind: 'churn', pagesPerSecond: 20_000, keepBlocks: 256 } });
    const channel = await channelTo(guest, there.listener.port, tls, streams);
    const source = await move(guest, channel);
    expect(source.error).toBeUndefined();
    expect(source.phase).toBe('completed');
    expect(source.accounts.hints.applied).toBeGreaterThan(0);
    expect(channel.bytesOnWire()).toBeGreaterThanOrEqual(source.transferredBytes);
    const arrived = await expectArrived(guest, there);
    // And on from there, from a host that had it by the network.
    await guest.stop();
    const next = await host();
    const onward = await channelTo(arrived, next.listener.port);
    expect((await move(arrived, onward)).phase).toBe('completed');
    await expectArrived(arrived, next);
  });

  it('whose link is cut time and again arrives whole', async () => {
    const there = await host();
    const proxy = ends.add(await CuttableNetwork.to(there.listener.port), (made) => made.close());
    const guest = await bench.guest({
      workload: { kind: 'dirty', bytesPerSecond: 20e6, workingSetBytes: 2 ** 20 },
    });
    const channel = await channelTo(guest, proxy.port);
    let cuts = 0;
    const source = await move(guest, channel, {
      options: { bytesPerSecond: 100e6, downtimeLimitMs: 20 },
      onEvent: (event) => {
        if ((event.type === 'session-issued' || event.type === 'stopped') && cuts < 4) {
          cuts += 1;
          setTimeout(() => proxy.cut(), 5 * cuts);
        }
      },
    });
    expect(source.error).toBeUndefined();
    expect(source.phase).toBe('completed');
    expect(there.events.filter(({ type }) => type === 'restored').length).toBeGreaterThan(0);
    await expectArrived(guest, there);
  });

  it('and is called off stays, and the memory that was taken for it is used again', async () => {
    const there = await host();
    const guest = await bench.guest();
    const abort = new AbortController();
    const channel = await channelTo(guest, there.listener.port);
    const source = await move(guest, channel, {
      signal: abort.signal,
      options: { bytesPerSecond: 20e6 },
      onEvent: (event) => {
        if (event.type === 'round') {
          setTimeout(() => abort.abort(), 20);
        }
      },
    });
    expect(source.phase).toBe('cancelled');
    expect(guest.running).toBe(true);
    await until(() => there.events.some(({ type }) => type === 'discarded'), 'the destination to hear of it');
    await channel.close();
    const { heldBytes } = there.pool;
    const again = await channelTo(guest, there.listener.port);
    expect(there.pool.heldBytes).toBe(heldBytes);
    expect((await move(guest, again)).phase).toBe('completed');
    await expectArrived(guest, there); // out of memory that was not zero any more
  });
});

it('leaves nothing behind that keeps a process', async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [
    join(import.meta.dirname, '../support/whole-migration.mjs'),
  ]);
  expect(stdout.trim()).toBe('completed');
});

describe('a guest that can not be received', () => {
  it('is refused for its kind, its trace, or want of memory; before anything is taken', async () => {
    const there = await host();
    const guest = await bench.guest();
    const endpoint = { host: '127.0.0.1', port: there.listener.port };
    const { memory, event } = guest;
    const offers: [string, RegExp][] = [
      ['', /does not say what kind/],
      ['{"kind":"v86"}', /another kind/],
      ['null', /another kind/],
      ['{"kind":"lacuna-worker","trace":"../../etc/passwd"}', /does not have/],
      ['{"kind":"lacuna-worker","trace":7}', /does not have/],
    ];
    for (const [description, words] of offers) {
      await expect(
        connectMigration({ endpoint, streams: 1, memory, event, label: '', guest: description }),
      ).rejects.toMatchObject({ code: 'UNSUPPORTED', message: expect.stringMatching(words) });
    }
    expect(there.pool.heldBytes).toBe(0);
    const full = await host({ pool: new MemoryPool(() => 1024) });
    await expect(channelTo(guest, full.listener.port)).rejects.toMatchObject({ code: 'OUT_OF_MEMORY' });
  });

  it.each([
    ['no JSON', 'x'],
    ['another version', '{"version":9}'],
    [
      'a balloon of more pages than there are',
      JSON.stringify({
        version: 2,
        vcpu: '',
        inflated: [0, 1e15],
        device: { queues: [], registers: { queues: [] } },
      }),
    ],
    [
      'more queues than there are',
      JSON.stringify({
        version: 2,
        vcpu: '',
        inflated: [],
        device: { queues: Array(9).fill(null), registers: { queues: [] } },
      }),
    ],
    ['no device', JSON.stringify({ version: 2, vcpu: '', inflated: [] })],
  ])('for its device state (%s) goes on at the source', async (_what, state) => {
    const there = await host();
    const guest = await bench.guest({ workload: { kind: 'halt' } });
    const channel = await channelTo(guest, there.listener.port);
    channel.roundEnd(1);
    channel.deviceState(new TextEncoder().encode(state));
    channel.finish();
    let message = channel.poll();
    await until(() => {
      message = channel.poll() ?? message;
      return message !== undefined && message.type !== 'applied';
    }, 'an answer');
    expect(message).toMatchObject({ type: 'error', reason: expect.stringMatching(/device state/) });
  });

  it('because its thread does not start it is not started', async () => {
    let control: SharedArrayBuffer | undefined;
    const threads: ThreadSource = {
      start: (name, work, onEnd) => {
        control = name === 'guest' ? (work as GuestThreadData).control : control; // not a stream's
        return newThreads.start(name, work, onEnd);
      },
    };
    const there = await host({ threads });
    const guest = await bench.guest({ workload: { kind: 'halt' } });
    const channel = await channelTo(guest, there.listener.port);
    await guest.pause();
    channel.roundEnd(1);
    channel.deviceState(guest.saveDeviceState());
    channel.finish();
    let message = channel.poll();
    const answer = async (type: string): Promise<void> =>
      until(() => {
        message = channel.poll() ?? message;
        return message?.type === type;
      }, type);
    await answer('ready');
    // Behind the back of the host, which has looked at the state: there is none that it takes and a thread does not.
    const spoilt = new ControlBuffer(atomicMapper, control!, new EventWord(atomicMapper));
    spoilt.writeState(new TextEncoder().encode(JSON.stringify({ version: 77, registers: {} })));
    channel.commit();
    await answer('not-started');
    expect(message).toMatchObject({ reason: expect.stringMatching(/version 77|did not start/) });
    expect(there.arrivals).toEqual([]);
    guest.resume();
    const next = await channelTo(guest, there.listener.port);
    expect((await move(guest, next)).phase).toBe('completed');
    await expectArrived(guest, there);
  });
});
