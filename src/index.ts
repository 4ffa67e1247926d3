/**
 * lacuna: live migration that leaves a virtual machine's free pages behind.
 *
 * The public API. What is not exported here, or from `lacuna/core`, `lacuna/diagnostics`, `lacuna/metrics` and `lacuna/v86`, may
 * change in any release.
 *
 * @packageDocumentation
 */

// The built-in guest, in a worker thread, and the destination in another; the memory maps that it is made from.
export { DIALECTS, type Dialect } from './balloon/dialect.js';
export type { GuestStatistics } from './balloon/statistics.js';
export * from './core.js';
export { type CaptureFiles, parseCapture } from './guest/capture.js';
export {
  type FreeMemoryMode,
  type GuestImage,
  type SyntheticOptions,
  syntheticImage,
} from './guest/image.js';
export type { ReportMode, SelfCheck } from './guest/runtime.js';
export { type GuestTrace, traceEndMs } from './guest/trace.js';
export { parseTrace, type TraceFiles } from './guest/trace-file.js';
export { traceImage } from './guest/trace-player.js';
export { traceWorkload } from './guest/trace-replay.js';
export { IDLE_WORKLOAD, type ReplaySpec, type WorkloadSpec } from './guest/workload.js';
export { MemoryPool } from './memory/memory-pool.js';
// `report.json`
export type {
  Baseline,
  BenchReport,
  BenchRun,
  MachineReport,
  PlanReport,
  ReportPart,
  RunPoint,
  RunReport,
  Shard,
  Spread,
  SummaryRow,
  SweepReport,
} from './report/schema.js';
// Migrations between processes and hosts, by TCP and TLS.
export type { Endpoint } from './transport/network/connect-stream.js';
export type { Admission, ListenerEvent, MigrationOffer } from './transport/network/incoming-migration.js';
export {
  type ListenOptions,
  type ListenTimeouts,
  listenForMigrations,
  type MigrationListener,
} from './transport/network/migration-listener.js';
export {
  type ConnectOptions,
  connectMigration,
  NETWORK_RUN_PAGES,
  type NetworkChannel,
} from './transport/network/network-channel.js';
export type { TlsSettings } from './transport/network/tls.js';
export {
  type Arrival,
  type ConnectGuestOptions,
  connectGuest,
  type ReceiveOptions,
  receiveGuests,
} from './vmm/network-destination.js';
export {
  type ConnectV86Options,
  connectV86Guest,
  type ReceiveV86Options,
  receiveV86Guests,
  type V86Arrival,
} from './vmm/v86/network.js';
export { type Verification, Verifier } from './vmm/verifier.js';
export { type DestinationOptions, WorkerDestination } from './vmm/worker-destination.js';
export {
  type GuestCounters,
  type HostingOptions,
  type ReplayProgress,
  WorkerGuest,
  type WorkerGuestOptions,
} from './vmm/worker-guest.js';
