import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  atBlock,
  ConsoleCounter,
  eventOf,
  Hold,
  type Hop,
  hop,
  incomingLinux,
  LINUX,
  type Linux,
  memFree,
  memFreeReaches,
  restoreLinux,
  startLinux,
  watchLeaveOut,
} from '../support/linux-migration.js';

/** Of free memory that holds what was in it. */
const OLD_DATA_MIB = 64;
/** Of a few MiB that come and go in a running system. */
const SLACK_MIB = 4;

describe.skipIf(!LINUX)('Linux, migrated alive', () => {
  /** A guest with a file in memory, a process that waits, and old data in free memory, all of it alike. */
  let prepared: ArrayBuffer;
  let machine: Linux | undefined;

  beforeAll(async () => {
    const booted = await startLinux();
    await booted.console.run('checksum make kept 2; sleep 1000000 & echo $! >/tmp/sleeper');
    await booted.console.run(`use ${OLD_DATA_MIB} same; unuse`);
    booted.guest.requestPause();
    prepared = await booted.emulator.save_state();
    await booted.close();
  });

  afterEach(async () => {
    await machine?.close();
    machine = undefined;
  });

  async function start(): Promise<Linux> {
    machine = await restoreLinux(prepared);
    return machine;
  }

  async function move(from: Linux, options: Parameters<typeof hop>[1] = {}): Promise<Hop> {
    const moved = await hop(from, options);
    machine = moved.machine;
    return moved;
  }

  /** What has to hold after every migration. */
  async function expectAllThere({ source, differing, machine: there }: Hop): Promise<void> {
    expect(source.error).toBeUndefined();
    expect(source.phase).toBe('completed');
    expect(differing).toEqual([]);
    const said = await there.console.run('checksum verify kept; kill -0 $(cat /tmp/sleeper) && echo alive');
    expect(said).toMatch(/^checksum: kept ok \w+\nalive$/);
  }

  /** A migration of a guest that counts meanwhile. */
  async function moveWhileItCounts(hints: boolean): Promise<Hop> {
    const from = await start();
    const to = await incomingLinux(); // it would take the guest's time: they share a thread here
    const counter = ConsoleCounter.start(from.console);
    await counter.counts(5);
    const leftOut = watchLeaveOut(from);
    const moved = await move(from, { to, options: { hints } });
    expect(leftOut.late).toBe(0);
    expect(leftOut.words > 0).toBe(hints);
    await counter.counts(5);
    const { numbers, uptimes } = await counter.stop();
    expect(numbers).toEqual(numbers.map((_, i) => i + 1));
    expect(uptimes).toEqual(uptimes.toSorted((a, b) => a - b));
    const longest = Math.max(...uptimes.slice(1).map((uptime, i) => uptime - uptimes[i]!));
    console.info(
      `hints ${hints ? 'on' : 'off'}: ${(moved.source.transferredBytes / 2 ** 20).toFixed(1)} MiB, downtime ` +
        `${moved.downtimeMs.toFixed(1)} ms, a scan ${moved.scanMs.toFixed(1)} ms, ${moved.source.rounds.length} rounds, ` +
        `longest step of the counter ${(longest * 1000).toFixed(0)} ms, ${JSON.stringify(moved.source.accounts.hints)}`,
    );
    await expectAllThere(moved);
    return moved;
  }

  it('moves while it runs, with hints and without, and hints leave old data behind', async () => {
    const without = await moveWhileItCounts(false);
    expect(without.source.sessions).toEqual([]);
    await without.machine.close();
    const withHints = await moveWhileItCounts(true);
    const { applied } = withHints.source.accounts.hints;
    expect(withHints.source.sessions).toHaveLength(1);
    expect(applied * 4096).toBeGreaterThan((OLD_DATA_MIB / 2) * 2 ** 20);
    expect(withHints.source.sent.pages).toBeLessThan(0.75 * without.source.sent.pages);
  });

  it('moves three times, after an attempt that was stopped in mid-report', async () => {
    const from = await start();
    const free = await memFree(from);
    const first = await move(from);
    await expectAllThere(first);
    await memFreeReaches(first.machine, free - SLACK_MIB);

    const abort = new AbortController();
    atBlock(first.machine.guest, 3, () => abort.abort());
    const cut = await move(first.machine, { signal: abort.signal });
    expect(cut.source.phase).toBe('cancelled');
    expect(cut.source.sessions).toHaveLength(1);
    expect(cut.source.accounts.hints.applied).toBeGreaterThan(0);
    expect(cut.source.sessions[0]!.doneAt).toBeNaN();
    await memFreeReaches(cut.machine, free - SLACK_MIB);

    const second = await move(cut.machine);
    await expectAllThere(second);
    await memFreeReaches(second.machine, free - SLACK_MIB);
    const third = await move(second.machine);
    await expectAllThere(third);
    await memFreeReaches(third.machine, free - SLACK_MIB);

    const ids = [first, cut, second, third].map(({ source }) => source.sessions.map(({ id }) => id));
    expect(ids).toEqual([[2], [3], [4], [5]]);
    for (const { source } of [first, second, third]) {
      expect(source.sessions[0]!.doneAt).toBeGreaterThan(0);
      expect(source.accounts.hints.applied).toBeGreaterThan(10_000);
    }
  });

  it('T7 brings over what memory pressure takes back and writes its old bytes into', async () => {
    const from = await start();
    const hold = new Hold();
    const done = eventOf('session-done');
    const moving = move(from, { hold, onEvent: done.onEvent });
    await done.happened;
    const free = await memFree(from);
    const taken = Math.ceil(free) + 24;
    await from.console.run(`use ${taken} same`);
    hold.release(from.guest);
    const moved = await moving;
    await expectAllThere(moved);
    const { applied, reDirtied } = moved.source.accounts.hints;
    expect(reDirtied).toBeGreaterThan((8 * 2 ** 20) / 4096);
    expect(reDirtied).toBeLessThanOrEqual(applied);
    const sums = await moved.machine.console.run(
      'tail -c 8388608 /tmp/used | md5sum; for i in 1 2 3 4 5 6 7 8; do cat /tmp/.same; done | md5sum',
    );
    const [used, expected] = sums.split('\n');
    expect(used).toBe(expected);
  });

  it('T3, V6 gives all memory back when a migration is cancelled', async () => {
    const from = await start();
    const free = await memFree(from);
    const hold = new Hold();
    const done = eventOf('session-done');
    const abort = new AbortController();
    const moving = move(from, { hold, onEvent: done.onEvent, signal: abort.signal });
    await done.happened;
    expect(await memFree(from)).toBeLessThan(free / 2);
    abort.abort();
    const cut = await moving;
    expect(cut.source.phase).toBe('cancelled');
    await memFreeReaches(from, free - SLACK_MIB);
    expect(await from.console.run('checksum verify kept')).toContain('ok');
    expect((await move(from)).differing).toEqual([]);
  });
});
