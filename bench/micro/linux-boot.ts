/**
 * How long the Linux guest takes to boot in v86, from the machine's construction to the shell's prompt, and the
 * processor time that this process took for it. Fetch the guest first: `npm run guest:linux`.
 *
 * ```
 * npm run bench:linux-boot -- [--runs 3]
 * ```
 */
import { parseArgs } from 'node:util';
import { isMissing } from '../../src/cli/linux/image/guest-files.js';
import { type LinuxImage, obtainLinuxImage } from '../../src/cli/linux/image/linux-image.js';
import { makeMachine } from '../../src/cli/linux/machine.js';
import { parseWhole } from '../../src/cli/units.js';
import { MIB } from '../../src/memory/page.js';
import { printMachine, printTable, spread } from './figures.js';

const { values: given } = parseArgs({ options: { runs: { type: 'string', default: '3' } } });
const RUNS = parseWhole(1, 100)(given.runs);
const MEMORY_MIB = [128, 256, 512];

interface Boot {
  readonly seconds: number;
  readonly processorSeconds: number;
}

async function boot(image: LinuxImage, memoryMib: number): Promise<Boot> {
  const before = process.cpuUsage();
  const beganMs = performance.now();
  const machine = await makeMachine({ image, memoryBytes: memoryMib * MIB, role: 'boot' });
  machine.guest.resume();
  await machine.console.booted({ deadlineMs: 300_000 });
  const seconds = (performance.now() - beganMs) / 1000;
  const { user, system } = process.cpuUsage(before);
  await machine.close();
  return { seconds, processorSeconds: (user + system) / 1e6 };
}

const rows: string[][] = [];
for (const memoryMib of MEMORY_MIB) {
  for (const initOnAlloc of [false, true]) {
    const image = await obtainLinuxImage({ initOnAlloc });
    if (isMissing(image)) {
      console.error(image.missing);
      process.exit(1);
    }
    const boots: Boot[] = [];
    for (let run = 0; run < RUNS; run += 1) {
      boots.push(await boot(image, memoryMib));
    }
    rows.push([
      `${memoryMib} MiB, init_on_alloc=${initOnAlloc ? 1 : 0}`,
      ...(['seconds', 'processorSeconds'] as const).map((key) =>
        spread(
          boots.map((each) => each[key]),
          1,
        ),
      ),
    ]);
  }
}
printTable(['guest', 'boot, s', 'processor, s'], rows);
console.log(`median (min–max) of n = ${RUNS}`);
printMachine();
// An emulator that was destroyed may keep a timer.
process.exit(0);
