import { readFileSync } from 'node:fs';

/** Linux's tables of TCP sockets; a socket that is not this process's, or nobody's any more, has other ports or no inode. */
const TABLES = ['/proc/self/net/tcp', '/proc/self/net/tcp6'] as const;
/** Columns of a line: local and remote address, and the inode, which is 0 once nobody has the socket open. */
const LOCAL = 1;
const REMOTE = 2;
const INODE = 9;

/**
 * Sockets of this machine that somebody still has open and that have one of these ports at either end, whichever thread
 * they belong to. None where the system does not say.
 */
export function openSockets(ports: ReadonlySet<number>): string[] {
  return TABLES.flatMap((table) => {
    let lines: string[];
    try {
      lines = readFileSync(table, 'utf8').split('\n').slice(1);
    } catch {
      return [];
    }
    return lines.flatMap((line) => {
      const columns = line.trim().split(/\s+/);
      const local = portOf(columns[LOCAL]);
      const remote = portOf(columns[REMOTE]);
      const isOurs = ports.has(local) || ports.has(remote);
      return isOurs && columns[INODE] !== '0' ? [`${local} to ${remote}`] : [];
    });
  });
}

/** Of "0100007F:1F90". */
function portOf(address = ''): number {
  return Number.parseInt(address.slice(address.indexOf(':') + 1), 16);
}
