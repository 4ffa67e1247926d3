// A process that receives a Linux guest over TCP, and runs commands in it. Argument: MiB of memory.
// Says `port N` when it listens, `running` when the guest runs here, and `ran {…}` for each command, a line of its input each.
import { createInterface } from 'node:readline';
import { obtainLinuxImage } from '../../dist/src/cli/linux/image/linux-image.js';
import { makeMachine } from '../../dist/src/cli/linux/machine.js';
import { receiveV86Guests } from '../../dist/src/vmm/v86/network.js';

const image = await obtainLinuxImage();
const machine = await makeMachine({
  image,
  memoryBytes: Number(process.argv[2]) * 1024 * 1024,
  role: 'incoming',
});
const listener = await receiveV86Guests({
  host: '127.0.0.1',
  port: 0,
  prepare: async () => machine.guest,
  onRunning: () => console.log('running'),
});
console.log(`port ${listener.port}`);
for await (const command of createInterface({ input: process.stdin })) {
  console.log(`ran ${JSON.stringify(await machine.console.run(command))}`);
}
