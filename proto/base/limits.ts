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
/** A feeder that ended its connection and refuses new ones for so long has exited. */
export const REFUSED_MS_MAX = 500;
export const CALL_TIMEOUT_MS = 10_000;
export const CONNECT_TIMEOUT_MS = 10_000;

/** How long a program's first question for devices waits for links that are being made. */
export const DEVICES_SETTLE_MS = 3_000;

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
/** What a feeder could not be told, or refused, is tried again after such delays. */
export const ARREARS_DELAY_MS_MIN = 100;
export const ARREARS_DELAY_MS_MAX = 30_000;
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
/** Of what a feeder tells of itself: its GPUs and its RAM, their names, and why it lends nothing. */
export const DEVICES_PER_FEEDER_MAX = 65;
export const DEVICE_NAME_CHARACTERS_MAX = 96;
export const PAUSES_PER_FEEDER_MAX = 8;

// Agent.
export const ATTACHMENTS_MAX = 256;
export const EVENTS_KEPT_MAX = 1_000;
export const SNAPSHOT_EVENTS_MAX = 50;
/** Programs that have ended and are remembered for `greenboost report`. */
export const PROGRAMS_KEPT_MAX = 64;
/** Of the course of one program; when there are so many, every second one goes. */
export const PROGRAM_SAMPLES_MAX = 512;
/** Programs that a plan of an action names. */
export const PLAN_PROGRAMS_MAX = 64;
/** How long an eviction waits for its program, unless it is asked for less or more. */
export const EVICT_TIMEOUT_MS = 30_000;
export const EVICT_TIMEOUT_MS_MAX = 600_000;
/** Ranges of one program that `greenboost explain` lists. */
export const EXPLAIN_RANGES_MAX = 1_024;
/** What is read of the environment a program was started with. */
export const ENVIRON_BYTES_MAX = 1 * MIB;
export const WATCHERS_MAX = 32;
/** How often the agent looks whether its programs still run. */
export const PROCESS_POLL_INTERVAL_MS = 500;
/** A connection to the shim socket must say HELLO within this time. */
export const SHIM_HELLO_TIMEOUT_MS = 5_000;
/** Connections to the shim socket that have not said HELLO. */
export const SHIM_STRANGERS_MAX = 32;
/** Refused programs that are told of; more are only refused. */
export const SHIM_REFUSALS_PER_MINUTE_MAX = 30;
/** Unread replies and notices to one shim; beyond this it is too slow and is closed. */
export const SHIM_BACKLOG_BYTES_MAX = 256 * KIB;
/** EVENT notices of one shim kept per second; the rest is counted. */
export const SHIM_EVENTS_PER_SECOND_MAX = 20;
export const LIMITS_NOTICE_INTERVAL_MS = 500;
/** VRAM of a GPU that is shared out to no program: the smaller of this and that part of it. */
export const VRAM_RESERVE_BYTES = 384 * MIB;
export const VRAM_RESERVE_PART = 16;
/** A program that has been idle this long keeps only the VRAM that no other wants. */
export const VRAM_IDLE_MS = 10_000;
/** Shares of the same programs change at most this often, unless they are more than there is. */
export const VRAM_SHARE_INTERVAL_MS = 2_000;
/** Readings of NVML from which the VRAM of programs that are not ours is told. */
export const VRAM_OTHERS_SAMPLES = 3;
/** Leases that could not be released while their feeder was away, per feeder. */
export const PENDING_RELEASES_MAX = 1_024;
export const MEMORY_POLL_INTERVAL_MS = 1_000;
/** NVML takes tens of milliseconds on a real machine. */
export const GPU_POLL_INTERVAL_MS = 2_000;
export const WATCH_INTERVAL_MS_MIN = 100;
export const WATCH_INTERVAL_MS_DEFAULT = 500;
export const STATE_FILE_BYTES_MAX = 8 * MIB;
/** How long an agent that stops waits for calls under way. */
export const STOP_GRACE_MS = 3_000;
/** How long a reconnecting shim may take to come back after the agent restarted. */
export const READOPT_WINDOW_MS = 25_000;

/** RAM left to the machine's own user: the larger of this and a tenth of MemTotal. */
export const RAM_RESERVE_BYTES_MIN = 1 * GIB;
export const RAM_RESERVE_FRACTION = 0.1;
/** Growth of T2 stops above this share of stalled time (PSI memory some, avg10, percent). */
export const MEMORY_PRESSURE_PERCENT_MAX = 20;

// Feeder and its executors.
export const EXECUTOR_START_TIMEOUT_MS = 20_000;
/** One request to an executor; beyond it nobody knows what its memory holds, and it is ended. */
export const EXECUTOR_REQUEST_TIMEOUT_MS = 60_000;
/** Zeroing and scrubbing of a busy machine, at the slowest: a large range gets more time by its size. */
export const EXECUTOR_FILL_BYTES_PER_MS = 256 * KIB;
/** Ranges of one executor that are scrubbed at once. */
export const EXECUTOR_FREES_MAX = 4;
/** How often a pull between feeders is asked how far it is. */
export const EXECUTOR_PULL_POLL_MS = 500;
/** How long an executor may take to scrub and go before it is killed. */
export const EXECUTOR_STOP_MS = 3_000;
/** `gb-executor --probe` takes two seconds, and more on a machine that is busy: a probe this late hangs. */
export const PROBE_PROCESS_TIMEOUT_MS = 15_000;
export const PROBE_OUTPUT_BYTES_MAX = 64 * KIB;
export const STATS_WATCHERS_PER_SESSION_MAX = 4;
/** Calls under way on one connection. */
export const STREAMS_PER_SESSION_MAX = 128;
/** Changes are shown to watchers this long after they happened, together. */
export const STATS_COALESCE_MS = 50;
/** A feeder that hears nothing on a connection asks, and closes it without an answer. */
export const KEEPALIVE_INTERVAL_MS = 5_000;
export const KEEPALIVE_TIMEOUT_MS = 5_000;
/** How long a feeder that stops waits for its goodbye to reach the hosts. */
export const GOODBYE_MS = 300;
export const HOST_NAME_CHARACTERS_MAX = 64;

// The owner's rules of a feeder: it yields within 10 s, also when the driver does not answer.
export const RULES_INTERVAL_MS = 1_000;
export const LOCAL_USE_LOOK_INTERVAL_MS = 2_000;
export const LOCAL_USE_LOOK_TIMEOUT_MS = 6_000;
/** GPUs that nobody else has used for so long are lent again, unless the owner says otherwise. */
export const LOCAL_USE_IDLE_MS = 60_000;

// Lanes of a feeder (driver/lane/lane.h has the limits of the lanes themselves).
/** In which a ticket must be used; and how long after that it is still remembered. */
export const LANE_TICKET_MS = 30_000;
export const LANE_TICKET_MARGIN_MS = 1_000;
export const LANE_CONNECTIONS_MAX = 8;
/** Addresses at which lanes are waited for. */
export const DOOR_LISTENERS_MAX = 16;
/** Tickets that were granted and have not ended. */
export const LANES_PER_LEASE_MAX = 16;
export const LANES_PER_SESSION_MAX = 512;
/** Scratch memory behind a probe's lane, and how many there may be, of one session and of all. */
export const LANE_PROBE_BYTES = 64 * MIB;
export const LANE_PROBES_PER_SESSION_MAX = 2;
export const LANE_PROBES_MAX = 8;
/** How often open lanes are counted, and hosts' shares adjusted. */
export const LANE_SAMPLE_INTERVAL_MS = 500;
/** Questions about lanes, and about leases with lanes: with very many each is asked less often. */
export const LANE_COUNTS_PER_SECOND_MAX = 100;
/** A lane that moves less takes part in no sharing. Bytes per second. */
export const LANE_ACTIVE_RATE = 100_000;
/** The last count of a lane may delay the end of its lease by this much. */
export const LANE_LAST_COUNT_MS = 250;
/** Pull calls under way, of one session and of all. */
export const PULLS_PER_SESSION_MAX = 8;
export const PULLS_MAX = 32;

// Block cache of a feeder.
export const CACHE_DISK_FRACTION = 0.1;
export const CACHE_BYTES_MAX_DEFAULT = 64 * GIB;
/** Smaller budgets are not worth their files. */
export const CACHE_BYTES_MIN = 64 * MIB;
export const ARENA_WINDOW_BASE = 0x500000000000n;
export const ARENA_WINDOW_END = 0x555500000000n;
export const ARENA_BYTES_MAX = 4n << 40n;
