/**
 * lacuna: live migration that leaves a virtual machine's free pages behind.
 *
 * The public API. What is not exported here may change in any release.
 *
 * @packageDocumentation
 */

// The balloon device and the exits that it costs.
export type { ExitCounts, ExitTable } from './balloon/exits.js';
export type { HintSession, HintSink, HintStateName } from './balloon/hint-session.js';
// What goes wrong.
export { isLacunaError, LacunaError, type LacunaErrorCode } from './errors.js';
// The built-in guest, in a worker thread, and the destination in another.
export { type CaptureFiles, parseCapture } from './guest/capture.js';
export {
  type FreeMemoryMode,
  type GuestImage,
  type SyntheticOptions,
  syntheticImage,
} from './guest/image.js';
export type { ReportMode, SelfCheck } from './guest/runtime.js';
export { IDLE_WORKLOAD, type WorkloadSpec } from './guest/workload.js';
// Guest memory, its bitmaps and its dirty log.
export { EventWord } from './memory/control-buffer.js';
export { DirtyLog, type DirtySink } from './memory/dirty-log.js';
export {
  type BackedSegment,
  type GuestMemory,
  PrivateGuestMemory,
  SharedGuestMemory,
} from './memory/guest-memory.js';
export { MemoryPool } from './memory/memory-pool.js';
export { PageBitmap, type PageRun } from './memory/page-bitmap.js';
export { q35Blocks, type RamBlock, RamLayout, type RamSegment } from './memory/ram-layout.js';
export {
  atomicMapper,
  type SharedHalfWords,
  type SharedWords,
  type WordMapper,
} from './memory/shared-words.js';
// Migrating a machine of one's own: implement SourceVm and DestinationVm, connect them by a channel.
export { type MigrateRequest, type MigrationProgress, migrate } from './migration/migrate.js';
export { DEFAULT_OPTIONS, type MigrationOptions, SCHEDULES, type Schedule } from './migration/options.js';
export type {
  MigrationEvent,
  PrecopySource,
  RoundRecord,
  SessionRecord,
  SourcePhase,
} from './migration/precopy.js';
export { Receiver, type ReceiverState } from './migration/receiver.js';
export { type MigrationReport, type ReportContext, reportOf } from './migration/report.js';
export { type Comparison, comparePages } from './migration/verify.js';
export type { DestinationVm, HintDevice, SourceVm } from './migration/vm.js';
// `report.json`
export type {
  BenchReport,
  BenchRun,
  PlanReport,
  ReportPart,
  RunPoint,
  RunReport,
  Shard,
  SummaryRow,
  SweepReport,
} from './report/schema.js';
export { LoopbackChannel } from './transport/loopback.js';
export { type Verification, Verifier } from './vmm/verifier.js';
export { WorkerDestination } from './vmm/worker-destination.js';
export { WorkerGuest, type WorkerGuestOptions } from './vmm/worker-guest.js';
export type { DestinationMessage, FrameSink, PageCounts, SourceChannel } from './wire/channel.js';
