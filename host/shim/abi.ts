// SPDX-License-Identifier: Apache-2.0
// Mirrors shim/include/gb_abi.h: constants, the layout of every struct, and a codec with bounds
// checks. A test compiles the header and compares every size and offset with LAYOUTS.
import { GbError } from '../../proto/base/errors.js';
import { struct, type StructLayout } from '../../proto/base/struct.js';

export const ABI_MAJOR = 1;
export const ABI_MINOR = 1;
export const ABI_MAGIC = 0x48534247;
export const PAYLOAD_BYTES_MAX = 4096;
export const REQUESTS_MAX = 16;
export const RANGE_ALIGN = 2 * 2 ** 20;
export const ARENA_WINDOW_BASE = 0x500000000000n;
export const ARENA_WINDOW_END = 0x555500000000n;
export const UINT64_MAX = 0xffff_ffff_ffff_ffffn;

export const FRAME_REPLY = 1;
export const FRAME_OPTIONAL = 2;

export const Msg = {
  HELLO: 1,
  GRANT: 2,
  RETURN: 3,
  PLACE: 4,
  DROP: 5,
  LANE: 6,
  MOVED: 7,
  REPORT: 8,
  EVENT: 9,
  LANES: 10,
  LOST: 11,
  LIMITS: 12,
  MOVE: 13,
  ROOM: 14,
  DEVICE: 15,
  STEP: 16,
  SHIFT: 17,
} as const;

export const Status = {
  OK: 0,
  INVALID: 1,
  VERSION: 2,
  CAPACITY: 3,
  NOT_FOUND: 4,
  UNREACHABLE: 5,
  DATA_LOSS: 6,
  INTERNAL: 7,
  REFUSED: 8,
} as const;
export type StatusCode = (typeof Status)[keyof typeof Status];

export const AbiTier = { T1: 0, T2: 1, T1R: 2, T2R: 3, T3: 4 } as const;
export const TIER_COUNT = 5;
export const FEATURE_GATED = 1n;
export const FEATURE_REPLICAS = 2n;
export const FEATURE_DISPATCH = 4n;
export const FEATURE_DEVICES = 8n;

/** Names of enum gb_phase, by value. */
export const PHASES = ['init', 'model_load', 'inference', 'steady', 'idle'] as const;

/** Names of enum gb_staging, by value. */
export const STAGING = ['off', 'learning', 'on', 'in_place', 'unsupported'] as const;

/** Names of enum gb_undispatched, by value; what is empty is not used. */
export const UNDISPATCHED = [
  'owners',
  'code',
  'kind',
  'outside',
  'hidden',
  'room',
  'away',
  '',
] as const;

export const gbFrame = struct('gb_frame', {
  payload_bytes: 'u32',
  type: 'u16',
  flags: 'u16',
  request_id: 'u64',
});

export const gbHello = struct('gb_hello', {
  magic: 'u32',
  abi_major: 'u16',
  abi_minor: 'u16',
  features: 'u64',
  attachment_id: { bytes: 16 },
  pid: 'u32',
  reserved: 'u32',
  arena_base: 'u64',
  arena_bytes: 'u64',
  vram_budget_bytes: 'u64',
  ram_budget_bytes: 'u64',
  held_bytes: ['u64', TIER_COUNT],
  device_total_bytes: 'u64',
  device_name: { text: 64 },
  device_uuid: { bytes: 16 },
  command: { text: 128 },
  features_required: 'u64',
});

/** What every major version begins HELLO with. */
export const gbHelloHead = struct('gb_hello', { magic: 'u32', abi_major: 'u16', abi_minor: 'u16' });

export const gbHelloAck = struct('gb_hello_ack', {
  status: 'u32',
  abi_major: 'u16',
  abi_minor: 'u16',
  features: 'u64',
  agent_pid: 'u32',
  reserved: 'u32',
  limit_bytes: ['u64', TIER_COUNT],
});

export const gbBudget = struct('gb_budget', { tier: 'u32', reserved: 'u32', bytes: 'u64' });

export const gbBudgetReply = struct('gb_budget_reply', {
  status: 'u32',
  tier: 'u32',
  held_bytes: 'u64',
  limit_bytes: 'u64',
});

export const gbRange = struct('gb_range', { offset: 'u64', length: 'u64' });

export const gbPlaceRequest = struct('gb_place_request', {
  offset: 'u64',
  length: 'u64',
  lane: 'u32',
  reserved: 'u32',
});

export const TOUCHES_MAX = 128;
export const STEP_TOUCHES_MAX = 8192;
export const OWNERS_MAX = 128;

export const gbStepTouch = struct('gb_step_touch', {
  offset: 'u64',
  length: 'u64',
  launch: 'u32',
  lane: 'u32',
});

/** `touches`: TOUCHES_MAX times gbStepTouch. */
export const gbStep = struct('gb_step', {
  first: 'u32',
  count: 'u32',
  total: 'u32',
  launch_count: 'u32',
  local_bytes: 'u64',
  touches: { bytes: TOUCHES_MAX * 24 },
});

export const gbOwner = struct('gb_owner', {
  offset: 'u64',
  length: 'u64',
  lane: 'u32',
  reserved: 'u32',
});

/** `owners`: OWNERS_MAX times gbOwner. */
export const gbStepReply = struct('gb_step_reply', {
  status: 'u32',
  count: 'u32',
  crossings_before: 'u32',
  crossings_after: 'u32',
  owners: { bytes: OWNERS_MAX * 24 },
});

export const gbRoomRequest = struct('gb_room_request', {
  offset: 'u64',
  length: 'u64',
  lane: 'u32',
  drop: 'u32',
});

export const DEVICES_MAX = 7;
export const ATTRIBUTES_MAX = 160;

export const gbDeviceRequest = struct('gb_device_request', {
  index: 'u32',
  reserved: 'u32',
  offset: 'u64',
  length: 'u64',
});

export const gbDeviceReply = struct('gb_device_reply', {
  status: 'u32',
  count: 'u32',
  lane: 'u32',
  compute_capability: 'u32',
  total_bytes: 'u64',
  free_bytes: 'u64',
  feeder: { text: 64 },
  name: { text: 96 },
  uuid: { bytes: 16 },
  attributes: ['i32', ATTRIBUTES_MAX],
});

export const gbStatusReply = struct('gb_status_reply', {
  status: 'u32',
  tier: 'u32',
  feeder: { text: 64 },
});

export const EXTENTS_MAX = 64;
export const LANES_MAX = 64;
export const LANE_FEATURE_OFFER = 1n;
export const LANE_FEATURE_RUN = 2n;
export const MovePhase = { BEGIN: 1, COMMIT: 2, CANCEL: 3 } as const;
export const MoveOutcome = { OK: 1, DIRTY: 2, UNKNOWN: 3 } as const;

export const gbExtent = struct('gb_extent', {
  offset: 'u64',
  length: 'u64',
  lane: 'u32',
  mirror: 'u32',
});

/** `extents`: EXTENTS_MAX times gbExtent. */
export const gbPlaceReply = struct('gb_place_reply', {
  status: 'u32',
  tier: 'u32',
  feeder: { text: 64 },
  extent_count: 'u32',
  reserved: 'u32',
  extents: { bytes: EXTENTS_MAX * 24 },
});

export const gbTicketRequest = struct('gb_ticket_request', { lane: 'u32', attempt: 'u32' });

export const gbTicketReply = struct('gb_ticket_reply', {
  status: 'u32',
  lane: 'u32',
  port: 'u32',
  connections: 'u32',
  features: 'u64',
  ticket_id: { bytes: 16 },
  secret: { bytes: 32 },
  address: { text: 64 },
  feeder: { text: 64 },
  compute_capability: 'u32',
  reserved: 'u32',
});

export const gbLaneReport = struct('gb_lane_report', {
  lane: 'u32',
  state: 'u32',
  bytes_read: 'u64',
  bytes_written: 'u64',
  wire_bytes_in: 'u64',
  wire_bytes_out: 'u64',
  cached_bytes: 'u64',
  round_trip_ns: 'u64',
  key_age_ms: 'u64',
  connections: 'u32',
  opened_count: 'u32',
  cipher: { text: 24 },
  provider: { text: 24 },
  launch_count: 'u64',
  crossing_count: 'u64',
  crossing_bytes_out: 'u64',
  crossing_bytes_in: 'u64',
  replica_bytes: 'u64',
});

export const gbMove = struct('gb_move', {
  sequence: 'u64',
  offset: 'u64',
  length: 'u64',
  phase: 'u32',
  from_lane: 'u32',
  to_lane: 'u32',
  source_lane: 'u32',
});

export const gbMoveReply = struct('gb_move_reply', {
  sequence: 'u64',
  phase: 'u32',
  outcome: 'u32',
});

export const gbReport = struct('gb_report', {
  used_bytes: ['u64', TIER_COUNT],
  peak_bytes: ['u64', TIER_COUNT],
  allocation_count: 'u64',
  allocated_bytes: 'u64',
  launch_count: 'u64',
  copy_count: 'u64',
  fetch_bytes: 'u64',
  evict_bytes: 'u64',
  clean_drop_bytes: 'u64',
  unaccounted_launch_count: 'u64',
  refused_launch_count: 'u64',
  stall_micros: 'u64',
  stage_in_bytes: 'u64',
  stage_out_bytes: 'u64',
  stage_clean_bytes: 'u64',
  remap_count: 'u64',
  switch_count: 'u64',
  switch_abandoned_count: 'u64',
  switch_micros: 'u64',
  frame_bytes: 'u64',
  graph_split_count: 'u64',
  nvme_read_bytes: 'u64',
  nvme_write_bytes: 'u64',
  staging: 'u32',
  order_percent: 'u32',
  phase: 'u32',
  sticky_error: 'u32',
  dispatched_count: 'u64',
  undispatched_count: ['u64', UNDISPATCHED.length],
});

export const gbEvent = struct('gb_event', {
  severity: 'u32',
  cuda_error: 'u32',
  name: { text: 48 },
  text: { text: 200 },
});

export const gbLost = struct('gb_lost', { offset: 'u64', length: 'u64', feeder: { text: 64 } });

export const gbLimits = struct('gb_limits', { limit_bytes: ['u64', TIER_COUNT] });

/** Every struct by its C name, for the test that compiles the header. */
export const LAYOUTS: Readonly<Record<string, StructLayout>> = {
  gb_frame: gbFrame,
  gb_hello: gbHello,
  gb_hello_ack: gbHelloAck,
  gb_budget: gbBudget,
  gb_budget_reply: gbBudgetReply,
  gb_range: gbRange,
  gb_place_request: gbPlaceRequest,
  gb_step_touch: gbStepTouch,
  gb_step: gbStep,
  gb_owner: gbOwner,
  gb_step_reply: gbStepReply,
  gb_room_request: gbRoomRequest,
  gb_device_request: gbDeviceRequest,
  gb_device_reply: gbDeviceReply,
  gb_status_reply: gbStatusReply,
  gb_report: gbReport,
  gb_event: gbEvent,
  gb_lost: gbLost,
  gb_limits: gbLimits,
  gb_extent: gbExtent,
  gb_place_reply: gbPlaceReply,
  gb_ticket_request: gbTicketRequest,
  gb_ticket_reply: gbTicketReply,
  gb_lane_report: gbLaneReport,
  gb_move: gbMove,
  gb_move_reply: gbMoveReply,
};

export type Hello = ReturnType<typeof gbHello.decode>;
export type Report = ReturnType<typeof gbReport.decode>;
export type LaneReport = ReturnType<typeof gbLaneReport.decode>;

export interface Frame {
  readonly type: number;
  readonly flags: number;
  readonly requestId: bigint;
  readonly payload: Buffer;
}

/** One frame as bytes. @throws RangeError above PAYLOAD_BYTES_MAX. */
export function encodeFrame(
  type: number,
  flags: number,
  requestId: bigint,
  payload: Uint8Array,
): Buffer {
  if (payload.length > PAYLOAD_BYTES_MAX) throw new RangeError('payload too long');
  const head = gbFrame.encode({
    payload_bytes: payload.length,
    type,
    flags,
    request_id: requestId,
  });
  return Buffer.concat([head, payload]);
}

/** Cuts a byte stream into frames. Holds at most one frame and the chunk being pushed. */
export class FrameDecoder {
  private rest: Buffer = Buffer.alloc(0);

  /** The frames completed by `chunk`. @throws GbError PROTOCOL_VIOLATION on a declared payload
   *  above the limit; the decoder is of no use afterwards. */
  push(chunk: Uint8Array): Frame[] {
    let data = this.rest.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.rest, chunk]);
    const frames: Frame[] = [];
    while (data.length >= gbFrame.size) {
      const head = gbFrame.decode(data);
      if (head.payload_bytes > PAYLOAD_BYTES_MAX) {
        throw new GbError('PROTOCOL_VIOLATION', `a payload of ${head.payload_bytes} bytes`);
      }
      const end = gbFrame.size + head.payload_bytes;
      if (data.length < end) break;
      frames.push({
        type: head.type,
        flags: head.flags,
        requestId: head.request_id,
        payload: data.subarray(gbFrame.size, end),
      });
      data = data.subarray(end);
    }
    this.rest = Buffer.from(data);
    return frames;
  }
}
