import { execFileSync, spawnSync } from 'node:child_process';

/**
 * Two hosts on one machine: network namespaces of their own, joined by a pair of virtual Ethernet devices, and nothing
 * else. Needs Linux, root and Debian's iproute2.
 *
 * ```
 *   source  10.77.0.1 ── veth ════════ veth ── 10.77.0.2  destination
 * ```
 */
export class TwoHosts {
  readonly source: string = `lacuna-${process.pid}-s`;
  readonly destination: string = `lacuna-${process.pid}-d`;
  readonly destinationAddress = '10.77.0.2';

  constructor() {
    this.close(); // of a test process with the same number that was killed
    for (const host of [this.source, this.destination]) {
      ip('netns', 'add', host);
    }
    ip(
      'link',
      'add',
      DEVICE,
      'netns',
      this.source,
      'type',
      'veth',
      'peer',
      'name',
      DEVICE,
      'netns',
      this.destination,
    );
    for (const [host, address] of [
      [this.source, '10.77.0.1'],
      [this.destination, this.destinationAddress],
    ] as const) {
      ip('-n', host, 'address', 'add', `${address}/24`, 'dev', DEVICE);
      ip('-n', host, 'link', 'set', DEVICE, 'up');
      ip('-n', host, 'link', 'set', 'lo', 'up');
    }
  }

  /** Shapes what the source sends; false where the kernel can't. */
  shape(...discipline: readonly string[]): boolean {
    return (
      spawnSync('ip', [
        'netns',
        'exec',
        this.source,
        'tc',
        'qdisc',
        'replace',
        'dev',
        DEVICE,
        'root',
        ...discipline,
      ]).status === 0
    );
  }

  /** The destination loses its address: nothing that is sent to it arrives, and nobody is told. */
  cut(): void {
    ip('-n', this.destination, 'address', 'del', `${this.destinationAddress}/24`, 'dev', DEVICE);
  }

  /** It gets it back. */
  mend(): void {
    ip('-n', this.destination, 'address', 'add', `${this.destinationAddress}/24`, 'dev', DEVICE);
  }

  close(): void {
    for (const host of [this.source, this.destination]) {
      spawnSync('ip', ['netns', 'del', host]);
    }
  }
}

const DEVICE = 'lacuna0';

function ip(...args: readonly string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });
}

/** Why there can't be two hosts here; undefined: there can. */
export function whyNotTwoHosts(): string | undefined {
  const name = `lacuna-${process.pid}-t`;
  const { error, status, stderr } = spawnSync('ip', ['netns', 'add', name]);
  if (error !== undefined) {
    return 'there is no ip command: install iproute2';
  }
  if (status !== 0) {
    return `network namespaces can't be made: ${stderr.toString().trim()}`;
  }
  spawnSync('ip', ['netns', 'del', name]);
  return undefined;
}
