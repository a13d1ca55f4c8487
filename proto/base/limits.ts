// SPDX-License-Identifier: Apache-2.0
// Every limit and period of the control plane in one place. Names carry their unit.
import { GIB, KIB, MIB } from './units.js';

export const PROTOCOL_MAJOR = 1;
export const PROTOCOL_MINOR = 0;
export const DEFAULT_PORT = 9740;

// Before authentication (security/): what a stranger may cost us.
export const HANDSHAKE_TIMEOUT_MS = 5_000;
export const HANDSHAKE_BYTES_MAX = 16 * KIB;
export const HANDSHAKES_PER_ADDRESS_MAX = 8;
export const HANDSHAKES_TOTAL_MAX = 64;
export const SESSIONS_MAX = 64;
/** A peer address that keeps failing is named in the log at most this often. */
export const AUTH_FAILURE_LOG_INTERVAL_MS = 60_000;
export const AUTH_FAILURE_ADDRESSES_MAX = 1_024;
/** First messages of handshakes remembered, so that a copy of one is refused. */
export const REPLAY_RECORDS_MAX = 4_096;
/** Sessions of a removed key end within this time. */
export const KEY_SWEEP_INTERVAL_MS = 1_000;

// Files with secrets (security/private-file.ts).
export const PRIVATE_FILE_BYTES_MAX = 256 * KIB;
export const PRIVATE_FILE_LOCK_WAIT_MS = 2_000;
export const PRIVATE_FILE_LOCK_STALE_MS = 10_000;
export const FEEDER_KEYS_MAX = 16;
export const KEYRING_ENTRIES_MAX = 256;

// Audit log (security/audit.ts): so many files of this size, lines no longer than one atomic write.
export const AUDIT_FILE_BYTES_MAX = 1 * MIB;
export const AUDIT_FILES_MAX = 4;
export const AUDIT_LINE_BYTES_MAX = 4 * KIB;
/** The same refusal of the same address is written once in this time, then counted. */
export const AUDIT_REFUSAL_INTERVAL_MS = 60_000;
/** Different ones in that time; the rest is one line. */
export const AUDIT_REFUSALS_MAX = 256;

// gRPC.
export const MESSAGE_BYTES_MAX = 4 * MIB;
export const PING_PAYLOAD_BYTES_MAX = 64 * KIB;

// Leases: only Release frees at once; a lost control connection starts the TTL.
export const LEASE_TTL_MS = 30_000;
export const LEASE_RENEW_INTERVAL_MS = 5_000;
export const LEASE_SWEEP_INTERVAL_MS = 500;
/** One for each program of a host (ATTACHMENTS_MAX), and those it could not release while a feeder was away
 *  (PENDING_RELEASES_MAX), which it renews once to end them. */
export const LEASES_PER_SESSION_MAX = 1_280;
export const RANGES_PER_LEASE_MAX = 65_536;
export const RANGE_ALIGN_BYTES = 2 * MIB;

// Links.
export const HEARTBEAT_INTERVAL_MS = 500;
export const SILENCE_MAX_MS = 2_000;
/** Of it, what is waited for once more: a busy or stopped agent reads first what has come. */
export const SILENCE_CONFIRM_MS = 50;
export const RECONNECT_DELAY_MS_MIN = 200;
export const RECONNECT_DELAY_MS_MAX = 5_000;
export const CALL_TIMEOUT_MS = 10_000;
export const CONNECT_TIMEOUT_MS = 10_000;

/** A pull between feeders that reports nothing for so long is given up. */
export const PULL_SILENCE_MS = 10_000;
/** Extents of one feeder that move at the same time. */
export const MOVES_IN_FLIGHT_MAX = 4;
/** How long a program may take to answer about a move. */
export const MOVE_ANSWER_TIMEOUT_MS = 30_000;
/** A range that is written to while it moves is pulled again so often. */
export const MOVE_ATTEMPTS_MAX = 10;
export const MOVE_PAUSE_MS_MIN = 100;
export const MOVE_PAUSE_MS_MAX = 5_000;
/** What a feeder that is emptied got meanwhile is looked for so often. */
export const DRAIN_PASSES_MAX = 5;
/** The rate of a drain is that of the last seconds. */
export const DRAIN_RATE_WINDOW_MS = 5_000;
export const DRAIN_PROGRESS_INTERVAL_MS = 250;
/** Lost mirrors that found no room are tried again. */
export const REPAIR_INTERVAL_MS = 5_000;
/** A link that stays silent this long gets a new connection. */
export const SILENCE_RECONNECT_MS = 6_000;
/** Bandwidth probes stop at whichever comes first. */
export const LINK_PROBE_BYTES = 64 * MIB;
export const LINK_PROBE_MS = 1_000;
export const LINK_PROBE_PINGS = 200;
export const LINK_PROBE_PINGS_MS = 250;
/** Links measured at the same time; others wait. */
export const LINK_MEASURES_MAX = 2;
/** A link whose lanes could not be opened is measured again. */
export const LINK_REMEASURE_MS = 15_000;
/** How long calls of a connection may last after another has taken its place. */
export const RETIRE_MS = 60_000;
export const LINKS_MAX = 64;

// Agent.
export const ATTACHMENTS_MAX = 256;
export const EVENTS_KEPT_MAX = 1_000;
export const SNAPSHOT_EVENTS_MAX = 50;
/** Programs that have ended and are remembered for `greenboost report`. */
export const PROGRAMS_KEPT_MAX = 64;
/** Of the course of one program; when there are so many, every second one goes. */
export const PROGRAM_SAMPLES_MAX = 512;
