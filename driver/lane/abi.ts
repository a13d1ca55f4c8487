// SPDX-License-Identifier: Apache-2.0
// Mirrors driver/lane/lane.h and driver/lane/door.h: constants and the layout of every struct. A test compiles the
// headers and compares every size and offset with LANE_LAYOUTS and DOOR_LAYOUTS. Pointers are 'u64'.
import { struct, type StructLayout } from '../../proto/base/struct.js';
import { LaneRefusal } from './names.js';

export const LANE_TICKET_ID_BYTES = 16;
export const LANE_SECRET_BYTES = 32;
export const LANE_CONNECTIONS_MAX = 8;
const REFUSALS = Object.keys(LaneRefusal).length;
const ADDRESS_BYTES = 64;

export const LaneRights = { READ: 1, WRITE: 2 } as const;
export const LanePriority = { DEMAND: 0, NORMAL: 1, BACKGROUND: 2 } as const;
export const LaneEventKind = { OPENED: 1, CLOSED: 2, REFUSED: 3 } as const;

export const laneTicket = struct('gb_lane_ticket', {
  id: { bytes: LANE_TICKET_ID_BYTES },
  secret: { bytes: LANE_SECRET_BYTES },
});
export const laneTuning = struct('gb_lane_tuning', {
  record_bytes: 'u32',
  cipher: 'u32',
  provider: 'u32',
  silence_ms: 'u32',
  heartbeat_ms: 'u32',
  rekey_ms: 'u32',
  rekey_bytes: 'u64',
  keep_congestion: 'u32',
  reserved: 'u32',
});
export const laneOptions = struct('gb_lane_options', {
  size: 'u32',
  connections: 'u32',
  no_express: 'u32',
  window: 'u32',
  open_timeout_ms: 'u32',
  reserved: 'u32',
  tuning: { bytes: laneTuning.size },
});
const laneSegment = struct('gb_lane_segment', { offset: 'u64', bytes: 'u64', memory: 'u64' });
const laneRequest = struct('gb_lane_request', {
  size: 'u32',
  operation: 'u32',
  region: 'u32',
  priority: 'u32',
  deadline_ms: 'u32',
  notify: 'u32',
  segment_count: 'u32',
  reserved: 'u32',
  segments: 'u64',
  user: 'u64',
});
const laneCompletion = struct('gb_lane_completion', {
  id: 'u64',
  user: 'u64',
  bytes: 'u64',
  status: 'u32',
  reserved: 'u32',
});
export const laneCounters = struct('gb_lane_counters', {
  bytes_read: 'u64',
  bytes_written: 'u64',
  wire_bytes_in: 'u64',
  wire_bytes_out: 'u64',
  records_in: 'u64',
  records_out: 'u64',
  requests: 'u64',
  requests_failed: 'u64',
  requests_canceled: 'u64',
  rekeys: 'u64',
  retries: 'u64',
  round_trip_ns_last: 'u64',
  round_trip_ns_min: 'u64',
  round_trips: 'u64',
  key_age_ms: 'u64',
  heard_ms: 'u64',
  connections: 'u32',
  outstanding: 'u32',
  state: 'u32',
  record_bytes: 'u32',
  cipher: { text: 24 },
  provider: { text: 24 },
  congestion: { text: 16 },
});
export const laneServerOptions = struct('gb_lane_server_options', {
  size: 'u32',
  fd: 'i32',
  address: 'u64',
  port: 'u32',
  connections_max: 'u32',
  strangers_max: 'u32',
  stranger_ms: 'u32',
  adopt_fd: 'i32',
  reserved: 'u32',
  tuning: { bytes: laneTuning.size },
});
const laneBacking = struct('gb_lane_backing', {
  prepare: 'u64',
  acquire: 'u64',
  release: 'u64',
  offer: 'u64',
  call: 'u64',
});
const laneCall = struct('gb_lane_call', {
  size: 'u32',
  region: 'u32',
  priority: 'u32',
  deadline_ms: 'u32',
  body: 'u64',
  body_bytes: 'u64',
  result: 'u64',
  result_room: 'u64',
  result_bytes: 'u64',
});
export const laneRegion = struct('gb_lane_region', {
  size: 'u32',
  id: 'u32',
  rights: 'u32',
  reserved: 'u32',
  bytes: 'u64',
  base: 'u64',
  backing: 'u64',
  context: 'u64',
});
export const laneGrant = struct('gb_lane_grant', {
  size: 'u32',
  connections: 'u32',
  ttl_ms: 'u32',
  window: 'u32',
  ticket: { bytes: laneTicket.size },
  tag: 'u64',
  bytes_per_second: 'u64',
});
export const laneEvent = struct('gb_lane_event', {
  kind: 'u32',
  reason: 'u32',
  status: 'u32',
  version: 'u32',
  tag: 'u64',
  ticket: { bytes: LANE_TICKET_ID_BYTES },
  address: { text: ADDRESS_BYTES },
});
export const laneServerCounters = struct('gb_lane_server_counters', {
  accepted: 'u64',
  opened: 'u64',
  closed: 'u64',
  refused: ['u64', REFUSALS],
  events_dropped: 'u64',
  grants: 'u32',
  connections: 'u32',
  strangers: 'u32',
  reserved: 'u32',
});
export const laneCipherInfo = struct('gb_lane_cipher_info', {
  cipher: 'u32',
  provider: 'u32',
  megabytes_per_second: 'u32',
  chosen: 'u32',
  name: { text: 48 },
});

export const laneDoorOptions = struct('gb_lane_door_options', {
  size: 'u32',
  strangers_max: 'u32',
  stranger_ms: 'u32',
  lan_only: 'u32',
});
export const laneDoorCounters = struct('gb_lane_door_counters', {
  accepted: 'u64',
  passed: 'u64',
  refused: ['u64', REFUSALS],
  events_dropped: 'u64',
  routes: 'u32',
  strangers: 'u32',
  listeners: 'u32',
  reserved: 'u32',
});

/** Every struct of lane.h by its C name. */
export const LANE_LAYOUTS: Readonly<Record<string, StructLayout>> = {
  gb_lane_ticket: laneTicket,
  gb_lane_tuning: laneTuning,
  gb_lane_options: laneOptions,
  gb_lane_segment: laneSegment,
  gb_lane_request: laneRequest,
  gb_lane_completion: laneCompletion,
  gb_lane_counters: laneCounters,
  gb_lane_server_options: laneServerOptions,
  gb_lane_backing: laneBacking,
  gb_lane_call: laneCall,
  gb_lane_region: laneRegion,
  gb_lane_grant: laneGrant,
  gb_lane_event: laneEvent,
  gb_lane_server_counters: laneServerCounters,
  gb_lane_cipher_info: laneCipherInfo,
};

/** Every struct of door.h by its C name. */
export const DOOR_LAYOUTS: Readonly<Record<string, StructLayout>> = {
  gb_lane_door_options: laneDoorOptions,
  gb_lane_door_counters: laneDoorCounters,
};
