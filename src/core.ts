/**
 * The engine without a virtual machine: what a VMM of one's own needs, and nothing that needs Node.
 * `lacuna` exports all of it and the built-in guest; a program for a browser imports this (docs/EMBEDDING.md).
 *
 * @packageDocumentation
 */

// The hint session, for a `HintDevice` of one's own, and the exits that the built-in balloon counts.
export type { ExitCounts, ExitTable } from './balloon/exits.js';
export {
  type HintCounts,
  HintSession,
  type HintSink,
  HintState,
  type HintStateName,
  type HintTimes,
  nextCommandId,
} from './balloon/hint-session.js';
// What goes wrong.
export { isLacunaError, LacunaError, type LacunaErrorCode } from './errors.js';
// Guest memory, its bitmaps and its dirty log.
export { ComparedMemory, type ScanCounts } from './memory/compared-memory.js';
export { EventWord } from './memory/control-buffer.js';
export { DirtyLog, type DirtySink } from './memory/dirty-log.js';
export {
  type BackedSegment,
  type GuestMemory,
  PrivateGuestMemory,
  SharedGuestMemory,
} from './memory/guest-memory.js';
export { PageBitmap, type PageRun } from './memory/page-bitmap.js';
export { q35Blocks, type RamBlock, RamLayout, type RamSegment } from './memory/ram-layout.js';
export {
  atomicMapper,
  type SharedHalfWords,
  type SharedWords,
  type WordMapper,
} from './memory/shared-words.js';
// Migrating a machine of one's own: implement SourceVm and DestinationVm, connect them by a channel.
export { STALL_ACTIONS, type StallAction, type SwitchoverReason } from './migration/convergence.js';
export {
  type MigrateRequest,
  type MigrationControls,
  type MigrationProgress,
  migrate,
} from './migration/migrate.js';
export {
  DEFAULT_OPTIONS,
  type MigrationOptions,
  MOST_THROTTLE,
  SCHEDULES,
  type Schedule,
} from './migration/options.js';
export type { HintPageCounts, PageAccounts, RoundBalance } from './migration/page-accounts.js';
export {
  countFates,
  PAGE_FATES,
  type PageFate,
  type PageFateCounts,
  PageFates,
} from './migration/page-fates.js';
export type {
  MigrationEvent,
  PrecopySource,
  RoundRecord,
  SessionRecord,
  SourcePhase,
} from './migration/precopy.js';
export { Receiver, type ReceiverState } from './migration/receiver.js';
export {
  type MigrationReport,
  type ReportContext,
  type RoundReport,
  reportOf,
  type SessionReport,
} from './migration/report.js';
export { Timeline, type TimelineEvent, type TimelineSample } from './migration/timeline.js';
export { type Comparison, comparePages } from './migration/verify.js';
export type { DestinationVm, HintDevice, SourceVm } from './migration/vm.js';
export { LoopbackChannel } from './transport/loopback.js';
export type { QueueFault } from './virtqueue/device-queue.js';
export type { DestinationMessage, FrameSink, PageCounts, SourceChannel } from './wire/channel.js';
