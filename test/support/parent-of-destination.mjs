// Makes a destination in a process of its own, says which, and goes on until it is killed.
import { RemoteDestination } from '../../dist/src/cli/bench/remote-destination.js';

const remote = new RemoteDestination({ entry: new URL(process.argv[2]) });
const blocks = [{ startGpa: 0, endGpa: 16 * 2 ** 20 }];
const { port } = await remote.call('prepare', {
  blocks,
  touched: true,
  holdAtStart: true,
  tls: undefined,
  trace: undefined,
});
process.send({ pid: remote.pid, port });
