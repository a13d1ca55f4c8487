// SPDX-License-Identifier: Apache-2.0
// Mirrors driver/executor/gb_exec.h: constants, the layout of every struct, and a codec. A test
// compiles the header and compares every size and offset with LAYOUTS.
import { GbError } from '../../proto/base/errors.js';
import { struct, type StructLayout } from '../../proto/base/struct.js';

export const GBX_VERSION = 3;
export const GBX_PAYLOAD_BYTES_MAX = 4096;
export const GBX_FRAME_REPLY = 1;
export const GBX_GPUS_MAX = 8;

export const GbxMsg = {
  INIT: 1,
  ALLOCATE: 2,
  FREE: 3,
  STAT: 6,
  GRANT: 7,
  REVOKE: 8,
  LANE: 9,
  PULL: 10,
  PULL_STAT: 11,
  PULL_CANCEL: 12,
  CACHE: 13,
  LANE_EVENT: 14,
  LIMIT: 15,
  RUN_LIMIT: 16,
} as const;
export type GbxMsgType = (typeof GbxMsg)[keyof typeof GbxMsg];

export const GbxDevice = { RAM: 0, GPU: 1 } as const;

export const GbxStatus = {
  OK: 0,
  INVALID: 1,
  VERSION_MISMATCH: 2,
  CAPACITY: 3,
  NOT_FOUND: 4,
  ARENA_UNAVAILABLE: 5,
  DRIVER: 6,
  SYSTEM: 7,
  LANE: 8,
  CANCELED: 9,
} as const;

export const gbxFrame = struct(
  'gbx_frame',
  {
    payload_bytes: 'u32',
    type: 'u16',
    flags: 'u16',
    request_id: 'u64',
  },
  { exact: true },
);
export const gbxInit = struct(
  'gbx_init',
  {
    version: 'u32',
    gpu_count: 'u32',
    arena_base: 'u64',
    arena_bytes: 'u64',
    gpu_ordinals: ['i32', GBX_GPUS_MAX],
  },
  { exact: true },
);
export const gbxInitReply = struct(
  'gbx_init_reply',
  {
    status: 'u32',
    detail: 'i32',
    arena_base: 'u64',
    ram_is_host_numa: 'u32',
    reserved: 'u32',
  },
  { exact: true },
);
export const gbxRange = struct(
  'gbx_range',
  {
    device_kind: 'u32',
    device_index: 'i32',
    offset: 'u64',
    length: 'u64',
  },
  { exact: true },
);
export const gbxStatus = struct(
  'gbx_status',
  { status: 'u32', detail: 'i32', bytes: 'u64' },
  { exact: true },
);
export const gbxStat = struct(
  'gbx_stat',
  {
    status: 'u32',
    detail: 'i32',
    ram_bytes: 'u64',
    ram_locked_bytes: 'u64',
    vram_bytes: ['u64', GBX_GPUS_MAX],
    read_bytes: 'u64',
    write_bytes: 'u64',
    range_count: 'u64',
  },
  { exact: true },
);

export const gbxGrant = struct(
  'gbx_grant',
  {
    ticket_id: { bytes: 16 },
    secret: { bytes: 32 },
    offset: 'u64',
    length: 'u64',
    bytes_per_second: 'u64',
    tag: 'u64',
    rights: 'u32',
    connections: 'u32',
    ttl_ms: 'u32',
    window: 'u32',
  },
  { exact: true },
);
export const gbxTicket = struct('gbx_ticket', { ticket_id: { bytes: 16 } }, { exact: true });
export const gbxLimit = struct(
  'gbx_limit',
  { ticket_id: { bytes: 16 }, bytes_per_second: 'u64' },
  { exact: true },
);
/** How long kernels may run without one of them ending. */
export const GBX_RUN_LIMIT_MS = 10_000;
export const GBX_RUN_LIMIT_MS_MIN = 100;
export const gbxRunLimit = struct(
  'gbx_run_limit',
  { kernel_ms: 'u32', reserved: 'u32' },
  { exact: true },
);
export const gbxLaneStat = struct(
  'gbx_lane_stat',
  {
    status: 'u32',
    detail: 'i32',
    state: 'u32',
    connections: 'u32',
    bytes_read: 'u64',
    bytes_written: 'u64',
    wire_bytes_in: 'u64',
    wire_bytes_out: 'u64',
    cached_bytes: 'u64',
    round_trip_ns: 'u64',
    key_age_ms: 'u64',
    cipher: { text: 24 },
    provider: { text: 24 },
  },
  { exact: true },
);
export const gbxPull = struct(
  'gbx_pull',
  {
    ticket_id: { bytes: 16 },
    secret: { bytes: 32 },
    source_offset: 'u64',
    offset: 'u64',
    length: 'u64',
    port: 'u32',
    connections: 'u32',
    address: { text: 64 },
  },
  { exact: true },
);
export const gbxPullRef = struct('gbx_pull_ref', { request_id: 'u64' }, { exact: true });
export const gbxCache = struct(
  'gbx_cache',
  { key: { bytes: 32 }, budget_bytes: 'u64', path: { text: 256 } },
  { exact: true },
);
export const gbxLaneEvent = struct(
  'gbx_lane_event',
  {
    kind: 'u32',
    reason: 'u32',
    status: 'u32',
    version: 'u32',
    tag: 'u64',
    ticket_id: { bytes: 16 },
    address: { text: 64 },
  },
  { exact: true },
);

/** Every struct by its C name; what a test compares with the compiler's answers. */
export const LAYOUTS: Readonly<Record<string, StructLayout>> = {
  gbx_frame: gbxFrame,
  gbx_init: gbxInit,
  gbx_init_reply: gbxInitReply,
  gbx_range: gbxRange,
  gbx_status: gbxStatus,
  gbx_stat: gbxStat,
  gbx_grant: gbxGrant,
  gbx_ticket: gbxTicket,
  gbx_limit: gbxLimit,
  gbx_run_limit: gbxRunLimit,
  gbx_lane_stat: gbxLaneStat,
  gbx_pull: gbxPull,
  gbx_pull_ref: gbxPullRef,
  gbx_cache: gbxCache,
  gbx_lane_event: gbxLaneEvent,
};

/** One whole request. */
export function encodeRequest(type: GbxMsgType, requestId: bigint, payload: Buffer): Buffer {
  const frame = gbxFrame.encode({
    payload_bytes: payload.length,
    type,
    flags: 0,
    request_id: requestId,
  });
  return Buffer.concat([frame, payload]);
}

export interface GbxReply {
  readonly type: number;
  readonly requestId: bigint;
  readonly payload: Buffer;
}

/** Cuts a stream into replies; holds at most one unfinished frame. */
export class ReplyReader {
  private buffered: Buffer = Buffer.alloc(0);

  /** @throws GbError PROTOCOL_VIOLATION when the stream cannot be trusted any more. */
  push(chunk: Buffer): GbxReply[] {
    this.buffered = this.buffered.length === 0 ? chunk : Buffer.concat([this.buffered, chunk]);
    const replies: GbxReply[] = [];
    while (this.buffered.length >= gbxFrame.size) {
      const frame = gbxFrame.decode(this.buffered.subarray(0, gbxFrame.size));
      if (frame.payload_bytes > GBX_PAYLOAD_BYTES_MAX || frame.flags !== GBX_FRAME_REPLY) {
        throw new GbError('PROTOCOL_VIOLATION', 'the executor sent a broken frame');
      }
      const end = gbxFrame.size + frame.payload_bytes;
      if (this.buffered.length < end) break;
      const payload = this.buffered.subarray(gbxFrame.size, end);
      replies.push({ type: frame.type, requestId: frame.request_id, payload });
      this.buffered = this.buffered.subarray(end);
    }
    return replies;
  }
}
