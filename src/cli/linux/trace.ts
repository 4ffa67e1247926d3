import Table from 'cli-table3';
import pc from 'picocolors';
import { LacunaError } from '../../errors.js';
import { MIB, PAGE_SIZE } from '../../memory/page.js';
import { migrate } from '../../migration/migrate.js';
import { Receiver } from '../../migration/receiver.js';
import { formatMib } from '../../report/format.js';
import { TABLE_STYLE } from '../../report/table.js';
import { VIRTIO_BALLOON_CMD_ID_DONE } from '../../spec/virtio-balloon.js';
import { LoopbackChannel } from '../../transport/loopback.js';
import type { BalloonTraceEntry } from '../../vmm/v86/balloon-trace.js';
import { ExitCode } from '../exit-code.js';
import { checkWritable, writeReport } from '../report-file.js';
import { GUEST_DEADLINE_MS } from './console.js';
import type { LinuxImage } from './image/linux-image.js';
import { makeMachine } from './machine.js';
import { startMachine } from './snapshot.js';

/** What `lacuna linux trace` was asked for. */
export interface TraceRequest {
  readonly image: LinuxImage;
  readonly memoryBytes: number;
  /** Every range, not the first and the last few. */
  readonly all: boolean;
  readonly json: string | undefined;
}

/** Who has done something. */
type Side = 'source' | 'destination';

/** A line of the trace: an event of the migration, or something between the balloon and its driver. */
type Line = { readonly side: Side; readonly ms: number } & (
  | { readonly entry: BalloonTraceEntry }
  | { readonly event: string }
);

/** Ranges that are shown at either end of a session. */
const RANGES_SHOWN = 3;

/**
 * Moves Linux within this process, and shows every register access, kick and ring entry of its balloon on the way. Returns
 * the exit code.
 */
export async function traceSession(request: TraceRequest): Promise<number> {
  checkWritable(request.json);
  const { image, memoryBytes } = request;
  const lines: Line[] = [];
  let began = Number.NaN;
  let seeDone: () => void = () => {};
  const sawDone = new Promise<void>((resolve) => {
    seeDone = resolve;
  });
  const tell =
    (side: Side) =>
    (entry: BalloonTraceEntry): void => {
      lines.push({ side, ms: entry.at - began, entry });
      if (side === 'destination' && isReadOfDone(entry)) {
        seeDone();
      }
    };
  const say = (line: string): void => console.error(pc.dim(line));
  const source = await startMachine({ image, memoryBytes, log: say, onTrace: tell('source') });
  const there = await makeMachine({ image, memoryBytes, role: 'incoming', onTrace: tell('destination') });
  try {
    source.guest.resume();
    source.console.send('\n');
    await source.console.booted();
    lines.length = 0;
    began = performance.now();
    const channel = new LoopbackChannel();
    channel.connect(new Receiver(there.guest, (message) => channel.reply(message)));
    const { phase, error, accounts, sessions } = await migrate({
      vm: source.guest,
      channel,
      event: source.guest.event,
      onEvent: (event) => {
        const what = EVENTS[event.type];
        if (what !== undefined) {
          lines.push({ side: 'source', ms: performance.now() - began, event: what });
        }
      },
    });
    if (phase !== 'completed') {
      throw error ?? new LacunaError('ILLEGAL_STATE', `the migration ended as ${phase}`);
    }
    if (sessions.length > 0) {
      await Promise.race([sawDone, silence()]); // its driver is told to give back what it holds
    }
    there.console.send('memfree\n');
    await there.console.expect(/MemFree \d+ kB/);
    console.log(render(lines, request.all));
    console.log(
      `${accounts.hints.applied} pages (${formatMib(accounts.hints.applied * PAGE_SIZE)} MiB of ` +
        `${memoryBytes / MIB}) were left out; Linux ${image.kernelVersion}`,
    );
    if (request.json !== undefined) {
      writeReport(request.json, { schema: 1, lines });
    }
    return ExitCode.ok;
  } finally {
    await source.close();
    await there.close();
  }
}

/** Rejects when the guest should have answered by now. */
function silence(): Promise<never> {
  return new Promise((_, reject) => {
    AbortSignal.timeout(GUEST_DEADLINE_MS).addEventListener('abort', () =>
      reject(new LacunaError('GUEST_FAILED', "the guest's driver has not read DONE at the destination")),
    );
  });
}

function isReadOfDone(entry: BalloonTraceEntry): boolean {
  return (
    entry.what === 'read' &&
    entry.register === 'free_page_hint_cmd_id' &&
    entry.value === VIRTIO_BALLOON_CMD_ID_DONE
  );
}

/** Events of the migration that say why the host does what it does. */
const EVENTS: Readonly<Record<string, string>> = {
  'session-issued': 'the dirty log was drained: a session is opened',
  'session-done': 'the report is done',
  stopping: 'the guest is asked to stop',
  stopped: 'the guest is stopped',
  committed: "the guest is the destination's",
  completed: 'it runs at the destination',
};

const QUEUES = ['inflate', 'deflate', 'statistics', 'free page'] as const;

function render(lines: readonly Line[], all: boolean): string {
  const table = new Table({ head: ['ms', 'where', 'who', 'what'], style: TABLE_STYLE, colAligns: ['right'] });
  const shown = all ? lines.map((line) => ({ line, left: 0 })) : shortened(lines);
  for (const { line, left } of shown) {
    if (left > 0) {
      table.push(['', '', '', pc.dim(`… ${left} more ranges, each with its kick`)]);
    }
    const { side, ms } = line;
    const [who, what] = 'event' in line ? ['migration', pc.dim(line.event)] : words(line.entry);
    table.push([ms.toFixed(2), side, who, what]);
  }
  return table.toString();
}

/** Without the ranges in the middle of a session, and their kicks. */
function shortened(lines: readonly Line[]): { readonly line: Line; readonly left: number }[] {
  const isRange = (line: Line | undefined): boolean =>
    line !== undefined && 'entry' in line && line.entry.what === 'range';
  const ranges = lines.filter(isRange);
  const hidden = new Set(ranges.slice(RANGES_SHOWN, -RANGES_SHOWN));
  const kept: { line: Line; left: number }[] = [];
  let left = 0;
  lines.forEach((line, i) => {
    if (hidden.has(line)) {
      left += 1;
    } else if (!hidden.has(lines[i + 1]!)) {
      kept.push({ line, left });
      left = 0;
    }
  });
  return kept;
}

function words(entry: BalloonTraceEntry): [who: string, what: string] {
  switch (entry.what) {
    case 'request':
      return [
        'device',
        `${entry.register} becomes ${idWords(entry.register, entry.value)}; config interrupt`,
      ];
    case 'read':
      return ['driver', `reads ${entry.register}: ${idWords(entry.register, entry.value)}`];
    case 'write':
      return ['driver', `writes ${entry.register}: ${entry.value}`];
    case 'kick':
      return [
        'driver',
        `kicks queue ${entry.queue} (${QUEUES[entry.queue]}); available index ${entry.available ?? '–'}`,
      ];
    case 'marker':
      return [
        'ring',
        `outbuf of ${entry.lengthBytes} bytes: ${markerWords(entry.value)} (session: ${entry.state})`,
      ];
    case 'range':
      return [
        'ring',
        `inbuf ${hex(entry.gpa)} + ${formatMib(entry.lengthBytes)} MiB: free (session: ${entry.state})`,
      ];
    case 'reset':
      return ['driver', 'resets the device'];
  }
}

function idWords(register: string, value: number): string {
  if (register !== 'free_page_hint_cmd_id') {
    return String(value);
  }
  return value === 0 ? '0 (STOP)' : value === 1 ? '1 (DONE)' : String(value);
}

function markerWords(value: number): string {
  return value === 0 ? '0, the stop sign' : `id ${value}`;
}

function hex(value: number): string {
  return `0x${value.toString(16).padStart(8, '0')}`;
}
