import { exitsBetween } from '../../balloon/exits.js';
import { migrateObserved } from '../../diagnostics.js';
import type { ScanCounts } from '../../memory/compared-memory.js';
import type { MigrationOptions } from '../../migration/options.js';
import type { MigrationEvent, PrecopySource } from '../../migration/precopy.js';
import { type MigrationReport, reportOf } from '../../migration/report.js';
import { reportHead } from '../../report/machine.js';
import type { CompressionMode } from '../../transport/network/compression-policy.js';
import { NETWORK_RUN_PAGES, type NetworkChannel } from '../../transport/network/network-channel.js';
import type { TlsSettings } from '../../transport/network/tls.js';
import { connectV86Guest } from '../../vmm/v86/network.js';
import { writeReport } from '../report-file.js';
import { type Control, serveControl } from '../send/control.js';
import { Handover } from '../send/handover.js';
import { formatEndpoint, type HostPort } from '../units.js';
import type { LinuxImage } from './image/linux-image.js';
import type { LinuxMachine } from './machine.js';

/** Where a machine is moved, and how. */
export interface MoveRequest {
  readonly machine: LinuxMachine;
  /** What people are shown. */
  readonly name: string;
  readonly to: HostPort;
  readonly tls: TlsSettings | undefined;
  readonly streams: number;
  readonly compression: CompressionMode;
  readonly options: Partial<MigrationOptions>;
  readonly signal: AbortSignal;
  readonly onEvent: (event: MigrationEvent) => void;
}

/** A migration of a v86 machine, in numbers. */
export interface MoveReport extends MigrationReport {
  /** Scans of its RAM for what was written, in place of a dirty log. */
  readonly scans: ScanCounts;
}

/** Writes a report of it, with what it was made with, to the file that was asked for. */
export function writeMoveReport(request: MoveReportRequest, migration: MoveReport): void {
  const { json, memoryBytes, image } = request;
  if (json !== undefined) {
    writeReport(json, {
      schema: 1,
      ...reportHead(request),
      guest: { memoryBytes, kernel: image.kernelVersion, cmdline: image.cmdline },
      migration,
    });
  }
}

/** What a report says beside the migration, and where it goes; undefined: nowhere. */
export interface MoveReportRequest {
  readonly image: LinuxImage;
  readonly memoryBytes: number;
  readonly json: string | undefined;
  readonly version: string;
  /** The command line. */
  readonly command: string;
}

/** A machine that is connected to where it is to go, and how that went. */
export class Move {
  readonly handover: Handover;
  readonly channel: NetworkChannel;
  readonly #request: MoveRequest;
  readonly #control: Control;

  private constructor(request: MoveRequest, channel: NetworkChannel, handover: Handover, control: Control) {
    this.#request = request;
    this.channel = channel;
    this.handover = handover;
    this.#control = control;
  }

  /** Connects; the guest may run meanwhile. Rejects as `connectMigration` does. */
  static async connect(request: MoveRequest): Promise<Move> {
    const { machine, name, to, tls, streams, compression, signal } = request;
    const channel = await connectV86Guest(machine.guest, {
      endpoint: { ...to, tls },
      streams,
      label: name,
      compression,
      signal,
    });
    const handover = new Handover({ migration: channel.migrationId, guest: name, to: formatEndpoint(to) });
    const control = await serveControl(channel.migrationId, (asked) => handover.answer(asked));
    return new Move(request, channel, handover, control);
  }

  /** Moves it. Rejects as `migrate` does. */
  async run(): Promise<{ readonly source: PrecopySource; readonly report: MoveReport }> {
    const { machine, name, options, signal, onEvent } = this.#request;
    const { guest } = machine;
    const exits = guest.exits();
    const scansBefore = { ...guest.scans };
    const counts = guest.device?.session.counts;
    const before = { stale: counts?.stale ?? 0, rejected: counts?.rejected ?? 0 };
    const source = await migrateObserved({
      name: `${name} ${this.channel.migrationId.slice(0, 8)}`,
      exits: () => guest.exits(),
      droppedPages: () => 0,
      vm: guest,
      channel: this.channel,
      event: guest.event,
      signal,
      onEvent: (event) => {
        this.handover.event(event);
        onEvent(event);
      },
      onControls: (controls) => {
        this.handover.controls = controls;
      },
      // Where the guest is, only the destination or an operator knows after the commit: they are waited for.
      options: { maxRunPages: NETWORK_RUN_PAGES, ...options, startTimeoutMs: Number.POSITIVE_INFINITY },
    });
    const { passes, comparedBytes, changedPages, ms } = guest.scans;
    return {
      source,
      report: {
        ...reportOf(source, {
          memoryBytes: machine.memoryBytes,
          exits: exitsBetween(exits, guest.exits()),
          stalePages: (counts?.stale ?? 0) - before.stale,
          rejectedRanges: (counts?.rejected ?? 0) - before.rejected,
          droppedPages: 0, // the ring is emptied in each kick
        }),
        scans: {
          passes: passes - scansBefore.passes,
          comparedBytes: comparedBytes - scansBefore.comparedBytes,
          changedPages: changedPages - scansBefore.changedPages,
          ms: ms - scansBefore.ms,
        },
      },
    };
  }

  async close(): Promise<void> {
    this.#control.close();
    await this.channel.close();
  }
}
