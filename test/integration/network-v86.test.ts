import { afterEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '../../dist/src/memory/page.js';
import { type MigrateRequest, migrate } from '../../dist/src/migration/migrate.js';
import type { PrecopySource } from '../../dist/src/migration/precopy.js';
import type { MigrationListener } from '../../dist/src/transport/network/migration-listener.js';
import { connectMigration } from '../../dist/src/transport/network/network-channel.js';
import { connectV86Guest, receiveV86Guests, type V86Arrival } from '../../dist/src/vmm/v86/network.js';
import { V86Guest } from '../../dist/src/vmm/v86/v86-guest.js';
import { FakeMachine } from '../support/fake-v86.js';

const PAGES = 64;

describe('v86 machines over a network', () => {
  let listener: MigrationListener | undefined;
  const closing: (() => Promise<void>)[] = [];

  afterEach(async () => {
    for (const close of closing.splice(0)) {
      await close();
    }
    await listener?.close();
    listener = undefined;
  });

  /** Listens, and says what became of the machines that it made. */
  async function listen(pages: number) {
    const made: FakeMachine[] = [];
    const arrived: V86Arrival[] = [];
    const discarded: V86Guest[] = [];
    listener = await receiveV86Guests({
      host: '127.0.0.1',
      port: 0,
      prepare: async () => {
        const machine = new FakeMachine(pages);
        made.push(machine);
        return V86Guest.incoming(machine.emulator);
      },
      onRunning: (arrival) => arrived.push(arrival),
      onDiscarded: (guest) => discarded.push(guest),
    });
    return { port: listener.port, made, arrived, discarded };
  }

  async function move(
    guest: V86Guest,
    port: number,
    request: Partial<MigrateRequest> = {},
  ): Promise<PrecopySource> {
    const channel = await connectV86Guest(guest, {
      endpoint: { host: '127.0.0.1', port },
      streams: 1,
      label: 'a test',
    });
    closing.push(() => channel.close());
    return migrate({ vm: guest, channel, event: guest.event, ...request });
  }

  it('arrive, and run there', async () => {
    const { port, made, arrived, discarded } = await listen(PAGES);
    const from = new FakeMachine(PAGES);
    const guest = V86Guest.open(from.emulator);
    from.ram.fill(7, 3 * PAGE_SIZE, 9 * PAGE_SIZE + 1);
    guest.start();
    const source = await move(guest, port);
    expect(source.error).toBeUndefined();
    await expect.poll(() => arrived).toHaveLength(1);
    expect(Buffer.compare(made[0]!.ram, from.ram)).toBe(0);
    expect([made[0]!.running, from.running]).toEqual([true, false]);
    expect(source.guestStartedAt).toBe(arrived[0]!.startedAt);
    expect(arrived[0]!.offer.layout.memoryBytes).toBe(PAGES * PAGE_SIZE);
    expect(discarded).toEqual([]);
  });

  it('are refused by a machine of another size, which is given back, and go on where they are', async () => {
    const { port, arrived, discarded } = await listen(PAGES / 2);
    const from = new FakeMachine(PAGES);
    const guest = V86Guest.open(from.emulator);
    guest.start();
    await expect(move(guest, port)).rejects.toThrow(/has 131072 bytes of RAM, and the guest 262144/);
    expect(from.running).toBe(true);
    expect(discarded).toHaveLength(1);
    expect(arrived).toEqual([]);
  });

  it('are not taken for guests of another kind, for which no machine is made', async () => {
    const { port, made } = await listen(PAGES);
    const { shadow: memory, event } = V86Guest.open(new FakeMachine(PAGES).emulator);
    for (const guest of ['', 'null', '7', '{"kind":"worker"}', '{']) {
      const endpoint = { host: '127.0.0.1', port };
      await expect(
        connectMigration({ endpoint, streams: 1, label: 'a test', memory, event, guest }),
        guest,
      ).rejects.toThrow(/only machines of v86/);
    }
    expect(made).toEqual([]);
  });

  it('are given back to whoever made them if the migration is cancelled', async () => {
    const { port, arrived, discarded } = await listen(PAGES);
    const from = new FakeMachine(PAGES);
    const guest = V86Guest.open(from.emulator);
    guest.start();
    const abort = new AbortController();
    const source = await move(guest, port, { signal: abort.signal, onEvent: () => abort.abort() });
    expect(source.phase).toBe('cancelled');
    await expect.poll(() => discarded).toHaveLength(1);
    expect(arrived).toEqual([]);
    expect(from.running).toBe(true);
  });
});
