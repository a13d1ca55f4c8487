// SPDX-License-Identifier: Apache-2.0
// What each command prints with --json, by its words: the definitions that docs/schemas is made from (make golden)
// and that writeJson holds every command to. A field may be added; one that changes or goes raises SCHEMA_VERSION.
import type { PathFigure } from '../../host/bench/paths.js';
import type { Diagnosis } from '../../host/doctor/doctor.js';
import type { AuditLine } from '../../security/audit-reader.js';
import type { ExplainJson } from '../model/dispatch.js';
import type { Comparison, PlannedJson, ProgramJson } from '../model/report.js';
import type { AttachmentJson } from '../model/attachments.js';
import type { FeedStatusJson } from '../model/feed-status.js';
import type { DrainJson, LinkJson } from '../model/links.js';
import type { ActionPlanJson } from '../model/plans.js';
import type { EventJson, SnapshotJson, TierJson } from '../model/snapshot.js';
import type { Totals } from '../view/plain.js';
import type { Checked, ShownRole } from './commands/config.js';
import type { Sizes } from './demo/demo.js';
import type { KnownFeeder } from './find-feeder.js';
import type { Check } from './demo/report.js';
import type { Plan } from './planning.js';
import type { Profile } from './profiles.js';

interface Versioned {
  readonly schemaVersion: number;
}

/** A pairing key by its name; never the key. */
export interface KeyJson {
  readonly feederId: string;
  readonly fingerprint: string;
  readonly shared: boolean;
  readonly createdUnixMs: number | null;
}

/** `key show`: the one document that holds a secret. */
interface OwnKeyJson extends Versioned, KeyJson {
  readonly pairingKey: string;
}

interface KeyListJson extends Versioned {
  readonly keyring: readonly KeyJson[];
  readonly own: readonly KeyJson[];
}

interface AgentStatusJson extends Versioned {
  readonly software: string;
  readonly agentPid: number;
  readonly startedUnixMs: number;
  readonly uptimeMs: number;
  readonly epoch: number;
  readonly hostId: string;
  readonly hostName: string;
  readonly linkCount: number;
  readonly attachmentCount: number;
}

interface ConfigCheckJson extends Versioned {
  /** No file has a problem. */
  readonly ok: boolean;
  readonly files: readonly Checked[];
}

interface ConfigShowJson extends Versioned {
  readonly roles: readonly ShownRole[];
}

interface ConnectJson extends Versioned {
  readonly link: LinkJson | null;
  /** That the feeder adds. */
  readonly tiers: readonly TierJson[];
  readonly totals: Totals;
}

/** `connect` without an address: who answers on this network. */
interface FoundJson extends Versioned {
  readonly feeders: readonly KnownFeeder[];
}

interface DisconnectJson extends Versioned {
  readonly feeder: string;
  readonly movedBytes: number;
  readonly lostBytes: number;
}

/** A line of progress; the last is `done`. */
interface DrainLineJson extends Versioned, DrainJson {
  readonly feeder: string;
}

interface PausedJson extends Versioned {
  readonly link: LinkJson | null;
}

/** What `--dry-run` of drain, pause, resume, disconnect and evict prints. */
interface ActionPlanOutput extends Versioned, ActionPlanJson {}

interface EvictJson extends Versioned {
  readonly pid: number;
  readonly evictedBytes: number;
  /** Afterwards. */
  readonly vramUsedBytes: number;
}

/** Which way bytes take to a feeder. */
export interface FeederPathJson {
  readonly feederName: string;
  readonly address: string;
  readonly localAddress: string;
  readonly lanePort: number;
  readonly sessionCipher: string;
  readonly laneCipher: string;
  readonly laneProvider: string;
  readonly laneConnections: number;
}

interface PingJson extends Versioned, FeederPathJson {
  readonly roundTrips: readonly { readonly callMicros: number; readonly laneMicros: number }[];
  readonly uploadBytesPerSecond: number;
  readonly downloadBytesPerSecond: number;
}

interface BenchJson extends Versioned {
  readonly paths: readonly PathFigure[];
}

interface DoctorJson extends Versioned, Diagnosis {}

/** A profile, and what the file of settings makes of it. */
export interface ProfileJson extends Omit<Profile, 'file'> {
  /** By their names in [run]. */
  readonly settings: Readonly<Record<string, string>>;
  readonly fromFile: boolean;
}

interface ProfilesJson extends Versioned {
  readonly profiles: readonly ProfileJson[];
}

interface ReportJson extends Versioned {
  /** Of a statistics file, what the shim told; of the agent's record, all that it counts of a program. */
  readonly program: ProgramJson & Omit<Partial<AttachmentJson>, keyof ProgramJson>;
  readonly plan: Plan | PlannedJson | null;
  readonly workSeconds: number | null;
  readonly comparison: readonly Comparison[];
}

interface DemoJson extends Versioned, Sizes {
  readonly ok: boolean;
  readonly simulated: boolean;
  readonly seconds: number;
  readonly checks: readonly Check[];
}

/** A line as the daemon's logger wrote it, with the facts of its event. */
interface LogLineJson {
  /** ISO 8601, UTC. */
  readonly time: string;
  /** 10 trace, 20 debug, 30 info, 40 warn, 50 error, 60 fatal. */
  readonly level: number;
  /** `agent`, `feeder`. */
  readonly name: string;
  readonly event?: string;
  readonly msg?: string;
  readonly [fact: string]: unknown;
}

interface VersionJson extends Versioned {
  readonly software: string;
  readonly protocol: string;
  readonly node: string;
}

/** One document for each command; `audit`, `drain`, `events`, `logs` and `cluster --watch` print one a line. `dry-run`
 *  is what commands that act print with that flag. */
export interface Outputs {
  'agent status': AgentStatusJson;
  audit: AuditLine;
  bench: BenchJson;
  cluster: SnapshotJson;
  'config check': ConfigCheckJson;
  'config show': ConfigShowJson;
  connect: ConnectJson | FoundJson;
  demo: DemoJson;
  disconnect: DisconnectJson;
  doctor: DoctorJson;
  drain: DrainLineJson;
  'dry-run': ActionPlanOutput;
  evict: EvictJson;
  events: EventJson;
  explain: ExplainJson;
  'feed status': FeedStatusJson;
  'key list': KeyListJson;
  'key show': OwnKeyJson;
  logs: LogLineJson;
  pause: PausedJson;
  ping: PingJson;
  plan: Plan;
  profiles: ProfilesJson;
  report: ReportJson;
  resume: PausedJson;
  status: SnapshotJson;
  version: VersionJson;
}
