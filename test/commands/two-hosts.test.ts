import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Terminal } from '../support/terminal.js';
import { TwoHosts, whyNotTwoHosts } from '../support/two-hosts.js';

const WHY_NOT = whyNotTwoHosts();
if (WHY_NOT !== undefined) {
  console.warn(`\n*** NOT TESTED between two hosts: ${WHY_NOT}. It takes Linux, root and iproute2. ***\n`);
}

/** 16 MiB nearly all of which goes over the link, which takes two seconds at this rate. */
const SLOW = ['--memory', '16MiB', '--free', '5%', '--free-memory', 'data', '--max-bandwidth', '8MB/s'];

describe.skipIf(WHY_NOT !== undefined)('two hosts', () => {
  let folder: string;
  let hosts: TwoHosts;
  let terminals: Terminal[];

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'lacuna-hosts-'));
    writeFileSync(join(folder, 'key'), `hosts:${'5a'.repeat(32)}\n`, { mode: 0o600 });
    hosts = new TwoHosts();
    terminals = [];
  });
  afterEach(async () => {
    await Promise.all(terminals.map((terminal) => terminal.kill()));
    hosts.close();
    rmSync(folder, { recursive: true });
  });

  function start(host: string, ...args: string[]): Terminal {
    const terminal = new Terminal(folder, args, { netns: host });
    terminals.push(terminal);
    return terminal;
  }

  /** A receiver for one guest that shares a key with its senders. */
  async function startReceive(): Promise<{ receiver: Terminal; to: string[] }> {
    const listen = `${hosts.destinationAddress}:7000`;
    const secret = ['--tls-psk', join(folder, 'key')];
    const receiver = start(hosts.destination, 'receive', '--listen', listen, ...secret, '--once');
    await receiver.says(/listening at/);
    return { receiver, to: ['send', '--to', listen, ...secret] };
  }

  it('nobody listens to the world unless he is told to, or asks for proof', async () => {
    const { destination, destinationAddress } = hosts;
    const listen = ['receive', '--listen', `${destinationAddress}:7000`];
    const refused = start(destination, ...listen);
    expect(await refused.ended, refused.text).toBe(2);
    expect(refused.text).toMatch(/insecure/);

    const insecure = start(destination, ...listen, '--insecure');
    await insecure.says(/listening at 10\.77\.0\.2:7000 \(not encrypted/);
    const elsewhere = start(hosts.source, 'send', '--to', '10.77.0.2:7001', '--memory', '16MiB');
    expect(await elsewhere.ended, elsewhere.text).toBe(1);
    expect(elsewhere.text).toMatch(/nobody listens|refused/);
  });

  it('a guest goes from one to the other, over a link with a rate, and with delay and loss where the kernel has them', async () => {
    const shaped = hosts.shape('netem', 'delay', '5ms', 'loss', '0.5%', 'rate', '200mbit');
    if (!shaped) {
      console.warn('*** NOT TESTED: delay and loss (this kernel has no netem); a rate is (tbf) ***');
      expect(hosts.shape('tbf', 'rate', '200mbit', 'burst', '64kb', 'latency', '50ms')).toBe(true);
    }
    const { receiver, to } = await startReceive();
    const sender = start(hosts.source, ...to, '--memory', '64MiB', '--channels', '2');
    expect(await sender.ended, sender.text).toBe(0);
    expect(await receiver.ended, receiver.text).toBe(0);
    expect(sender.text).toMatch(/connected to 10\.77\.0\.2:7000 \(TLS.*; 2 channels\)/);
    expect(receiver.text).toMatch(/self-check passed/);
  });

  it('an address that is gone in the middle of a migration, and comes back, has only cost time', async () => {
    const { receiver, to } = await startReceive();
    const sender = start(hosts.source, ...to, ...SLOW);
    await sender.says(/round 1: \d+ pages/);
    hosts.cut();
    await sender.says(/the link broke/); // nobody has told it: it has heard nothing for too long
    hosts.mend();
    await sender.says(/the link is there again, and what had arrived is still there/);
    expect(await sender.ended, sender.text).toBe(0);
    expect(await receiver.ended, receiver.text).toBe(0);
    expect(receiver.text).toMatch(/self-check passed/);
  });
});
