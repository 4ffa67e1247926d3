import { fork } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, expect, it } from 'vitest';
import { RemoteDestination } from '../../dist/src/cli/bench/remote-destination.js';
import { connectGuest, migrate, SharedGuestMemory } from '../../dist/src/index.js';
import { RamLayout } from '../../dist/src/memory/ram-layout.js';
import { PageDigester } from '../../dist/src/vmm/page-digester.js';
import { Bench } from '../support/guests.js';

const MIB = 2 ** 20;
const ENTRY = pathToFileURL(join(import.meta.dirname, '../support/fake-destination.mjs'));
const PREPARE = {
  blocks: [{ startGpa: 0, endGpa: 16 * MIB }],
  touched: true,
  holdAtStart: true,
  tls: undefined,
  trace: undefined,
};

const made: RemoteDestination[] = [];
function make(deadlineMs = 60_000): RemoteDestination {
  const remote = new RemoteDestination({ entry: ENTRY, deadlineMs });
  made.push(remote);
  return remote;
}
afterEach(async () => {
  await Promise.all(made.splice(0).map((remote) => remote.stop()));
});

/** What the fake does when somebody connects. */
type Deed = 'arrive' | 'discard' | 'throw' | 'exit' | 'hang';
function tell(port: number, deed: Deed): void {
  connect(port, '127.0.0.1', function (this: ReturnType<typeof connect>) {
    this.end(deed);
  }).on('error', () => undefined);
}

/** Whether there is such a process. */
function lives(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

it('receives a guest, says what it holds, and lets it go on', async () => {
  const remote = make();
  const { port } = await remote.call('prepare', PREPARE);
  const arrival = remote.call('arrival', undefined);
  tell(port, 'arrive');
  expect(await arrival).toEqual({ migrationId: 'f'.repeat(32), startedAt: 1234.5 });
  const digests = await remote.call('digests', undefined);
  expect(digests).toHaveLength(((16 * MIB) / 4096) * 16);
  expect(await remote.call('digests', undefined), 'it stands still').toEqual(digests);
  const check = await remote.call('selfCheck', undefined);
  expect(check).toMatchObject({ badPages: 0, badPfn: -1 });
  const { pagesWritten } = await remote.call('counters', undefined);
  await remote.call('resume', undefined);
  await expect
    .poll(async () => (await remote.call('counters', undefined)).pagesWritten, { timeout: 30_000 })
    .toBeGreaterThan(pagesWritten + 1000);
});

it('receives one guest after the other, and takes no more memory for the second', async () => {
  const remote = make();
  const rss: number[] = [];
  for (let i = 0; i < 10; i += 1) {
    const { port } = await remote.call('prepare', PREPARE);
    tell(port, 'arrive');
    await remote.call('arrival', undefined);
    rss.push((await remote.call('usage', undefined)).rssBytes);
  }
  await remote.call('release', undefined);
  await expect(remote.call('counters', undefined)).rejects.toMatchObject({ code: 'ILLEGAL_STATE' });
  await expect(remote.call('arrival', undefined)).rejects.toMatchObject({ code: 'ILLEGAL_STATE' });
  // The first two have compiled its code and grown its heap.
  expect(rss.at(-1)! - rss[1]!).toBeLessThan(4 * 16 * MIB);
});

it('measures what the process uses from when it is told to', async () => {
  const remote = make();
  await remote.call('prepare', PREPARE);
  const before = await remote.call('usage', undefined);
  expect(before.cpuMs).toBeGreaterThan(1);
  expect(before.rssBytes).toBeGreaterThan(16 * MIB);
  expect(before.peakRssBytes).toBeGreaterThanOrEqual(16 * MIB);
  await remote.call('measure', undefined);
  const after = await remote.call('usage', undefined);
  expect(after.cpuMs).toBeLessThan(before.cpuMs);
  expect(after.eventLoop.max).toBeGreaterThanOrEqual(after.eventLoop.p50);
});

it('has digests with which its guest can be compared', async () => {
  const remote = make();
  const { port } = await remote.call('prepare', PREPARE);
  tell(port, 'arrive');
  await remote.call('arrival', undefined);
  const digests = await remote.call('digests', undefined);
  const memory = SharedGuestMemory.allocate(new RamLayout(PREPARE.blocks));
  const digester = new PageDigester();
  const { pagesDifferent } = await digester.compare(
    { memory, oracle: undefined, device: undefined },
    digests,
  );
  await digester.close();
  // Of a guest whose memory holds no zeroes, no page is like one of memory that does.
  expect(pagesDifferent).toBeGreaterThan(3500);
});

it('says why a guest will not arrive', async () => {
  const remote = make();
  const { port } = await remote.call('prepare', PREPARE);
  const arrival = remote.call('arrival', undefined);
  tell(port, 'discard');
  await expect(arrival).rejects.toMatchObject({
    code: 'DESTINATION_FAILED',
    message: 'the source has called it off',
  });
});

it('hands on what goes wrong there as what it was', async () => {
  const remote = make();
  await expect(remote.call('digests', undefined)).rejects.toMatchObject({ code: 'ILLEGAL_STATE' });
  await expect(remote.call('prepare', { ...PREPARE, trace: '/nowhere' })).rejects.toMatchObject({
    code: 'CAPTURE_NOT_FOUND',
  });
  const blocks = [{ startGpa: 0, endGpa: 2 ** 50 }];
  await expect(remote.call('prepare', { ...PREPARE, blocks })).rejects.toMatchObject({
    code: 'OUT_OF_MEMORY',
  });
  await remote.call('prepare', PREPARE);
});

it.each<[Deed, RegExp]>([
  ['throw', /has ended with exit code 1; it said: [\s\S]*nobody has caught this/],
  ['exit', /has ended with exit code 3$/],
])('a process that dies (%s) ends what waits for it, with its last words', async (deed, words) => {
  const remote = make();
  const { port } = await remote.call('prepare', PREPARE);
  const arrival = remote.call('arrival', undefined);
  tell(port, deed);
  const failed = { code: 'DESTINATION_FAILED', message: expect.stringMatching(words) as string };
  await expect(arrival).rejects.toMatchObject(failed);
  await expect(remote.call('usage', undefined)).rejects.toMatchObject(failed);
  await remote.stop();
});

it('a process that is killed says by what', async () => {
  const remote = make();
  await remote.call('prepare', PREPARE);
  const arrival = remote.call('arrival', undefined);
  process.kill(remote.pid!, 'SIGKILL');
  await expect(arrival).rejects.toMatchObject({ message: 'the process that receives has ended by SIGKILL' });
});

it('a process that answers nothing is ended after its deadline', async () => {
  const remote = make();
  const { port } = await remote.call('prepare', PREPARE);
  tell(port, 'hang');
  await expect(remote.call('arrival', undefined, 500)).rejects.toMatchObject({
    code: 'DESTINATION_SILENT',
    message: 'the process that receives has not answered "arrival" within 500 ms',
  });
  await remote.stop();
  expect(lives(remote.pid!)).toBe(false);
});

it('does not heed an interrupt: what becomes of it is said by who made it', async () => {
  const remote = make();
  await remote.call('prepare', PREPARE);
  process.kill(remote.pid!, 'SIGINT');
  expect((await remote.call('usage', undefined)).rssBytes).toBeGreaterThan(0);
  const { pid } = remote;
  await remote.stop();
  expect(lives(pid!)).toBe(false);
  await expect(remote.call('usage', undefined)).rejects.toMatchObject({ code: 'ILLEGAL_STATE' });
});

it.each(['SIGKILL', 'SIGTERM', 'SIGINT'] as const)('ends when its parent is ended by %s', async (signal) => {
  const parent = fork(join(import.meta.dirname, '../support/parent-of-destination.mjs'), [ENTRY.href], {
    execArgv: [],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const [{ pid }] = (await once(parent, 'message')) as [{ pid: number }];
  expect(lives(pid)).toBe(true);
  parent.kill(signal);
  await once(parent, 'exit');
  await expect.poll(() => lives(pid), { timeout: 30_000 }).toBe(false);
});

it.each([
  ['TCP', undefined],
  ['TLS', { psk: { identity: 'benchmark', key: new Uint8Array(32).fill(9) } }],
] as const)('a guest that moves there over %s is the guest that it was', async (_name, tls) => {
  const bench = new Bench();
  const digester = new PageDigester();
  const remote = new RemoteDestination();
  made.push(remote);
  try {
    const guest = await bench.guest({ workload: { kind: 'churn', pagesPerSecond: 5000, keepBlocks: 64 } });
    const { blocks } = guest.memory.layout;
    const { port } = await remote.call('prepare', { ...PREPARE, blocks, tls });
    const channel = await connectGuest(guest, {
      endpoint: { host: '127.0.0.1', port, tls },
      streams: 2,
      label: 'test',
    });
    await remote.call('measure', undefined);
    const source = await migrate({
      vm: guest,
      channel,
      event: guest.event,
      onEvent: (event) => {
        if (event.type === 'session-issued') {
          guest.oracle?.sessionIssued(event.id);
        }
      },
    });
    expect(source.error).toBeUndefined();
    const { migrationId, startedAt } = await remote.call('arrival', undefined);
    expect(migrationId).toBe(channel.migrationId);
    expect(startedAt).toBeGreaterThanOrEqual(guest.stoppedAt);
    expect((await remote.call('usage', undefined)).cpuMs).toBeGreaterThan(0);
    const verdict = await digester.compare(guest, await remote.call('digests', undefined));
    expect(verdict).toMatchObject({
      pagesCompared: guest.memory.layout.pageCount,
      pagesDifferent: 0,
      firstDifferentPfn: -1,
    });
    expect(verdict.pagesLeftBehind).toBeGreaterThan(0);
    await remote.call('resume', undefined);
    await expect
      .poll(async () => (await remote.call('counters', undefined)).pagesWritten, { timeout: 30_000 })
      .toBeGreaterThan(1000);
    expect(await remote.call('selfCheck', undefined)).toMatchObject({ badPages: 0, badPfn: -1 });
    await channel.close();
  } finally {
    await bench.close();
    await digester.close();
  }
});
