// SPDX-License-Identifier: Apache-2.0
// A shim played by a script: speaks gb_abi.h over the socket, with a sealed memfd of this process
// as staging memory.
import { randomBytes } from 'node:crypto';
import { closeSync, ftruncateSync, readSync, writeSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import koffi from 'koffi';
import * as abi from '../../../host/shim/abi.js';
import { reportOf, type ReportFields } from './reports.js';

export const CHUNK = 2 * 2 ** 20;
export const ARENA_BASE = 0x500000000000n;
export const ARENA_BYTES = 1n << 36n;

const F_ADD_SEALS = 1033;
const MFD_ALLOW_SEALING = 2;

type Call = (...args: readonly unknown[]) => number;
const libc = koffi.load('libc.so.6');
const memfdCreate = libc.func('int memfd_create(const char *name, unsigned int flags)') as Call;
const fcntl = libc.func('int fcntl(int fd, int command, int argument)') as Call;

/** A memfd of `bytes` bytes. Ownership: the caller closes it. */
export function createStaging(bytes: number, seals = 0x1 | 0x2 | 0x4): number {
  const fd = memfdCreate('gb-test-staging', MFD_ALLOW_SEALING);
  ftruncateSync(fd, bytes);
  if (seals !== 0 && fcntl(fd, F_ADD_SEALS, seals) !== 0) throw new Error('seals');
  return fd;
}

export type HelloOverrides = Partial<Parameters<typeof abi.gbHello.encode>[0]>;

export class ShimPeer {
  readonly id: Buffer;
  readonly lost: { offset: number; length: number; feeder: string }[] = [];
  readonly limits: bigint[][] = [];
  closed = false;
  private readonly decoder = new abi.FrameDecoder();
  private readonly calls = new Map<bigint, (payload: Buffer) => void>();
  private nextId = 0n;

  private constructor(
    readonly socket: Socket,
    readonly stagingFd: number,
    readonly stagingBytes: number,
    id: Buffer | undefined,
  ) {
    this.id = id ?? randomBytes(16);
    socket.on('data', (chunk: Buffer) =>
      this.decoder.push(chunk).forEach((frame) => this.onFrame(frame)),
    );
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.closed = true;
      for (const settle of this.calls.values()) settle(Buffer.alloc(0));
      this.calls.clear();
    });
  }

  static async open(
    path: string,
    options: { id?: Buffer; stagingBytes?: number; stagingFd?: number } = {},
  ): Promise<ShimPeer> {
    const stagingBytes = options.stagingBytes ?? 64 * 2 ** 20;
    const fd = options.stagingFd ?? createStaging(stagingBytes);
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return new ShimPeer(socket, fd, stagingBytes, options.id);
  }

  /** Opens and says HELLO. @throws when it is refused. */
  static async attach(
    path: string,
    options: { id?: Buffer; stagingBytes?: number; hello?: HelloOverrides } = {},
  ): Promise<ShimPeer> {
    const peer = await ShimPeer.open(path, options);
    const ack = await peer.hello(options.hello);
    if (ack.status !== abi.Status.OK) throw new Error(`HELLO refused: ${ack.status}`);
    return peer;
  }

  async hello(overrides: HelloOverrides = {}): Promise<ReturnType<typeof abi.gbHelloAck.decode>> {
    const payload = abi.gbHello.encode({
      magic: abi.ABI_MAGIC,
      abi_major: abi.ABI_MAJOR,
      abi_minor: abi.ABI_MINOR,
      features: abi.FEATURE_GATED,
      attachment_id: this.id,
      pid: process.pid,
      staging_fd: this.stagingFd,
      staging_bytes: BigInt(this.stagingBytes),
      arena_base: ARENA_BASE,
      arena_bytes: ARENA_BYTES,
      vram_budget_bytes: abi.UINT64_MAX,
      ram_budget_bytes: abi.UINT64_MAX,
      held_bytes: [0n, 0n, 0n, 0n, 0n],
      device_total_bytes: 1n << 30n,
      device_name: 'scripted GPU',
      device_uuid: new Uint8Array(16),
      command: 'scripted shim',
      features_required: 0n,
      ...overrides,
    });
    return abi.gbHelloAck.decode(await this.request(abi.Msg.HELLO, payload));
  }

  /** The reply's payload. @throws when the agent closes instead. */
  async request(type: number, payload: Uint8Array): Promise<Buffer> {
    const requestId = ++this.nextId;
    const reply = new Promise<Buffer>((resolve) => this.calls.set(requestId, resolve));
    this.socket.write(abi.encodeFrame(type, 0, requestId, payload));
    const answer = await reply;
    if (answer.length === 0) throw new Error('the agent closed the socket');
    return answer;
  }

  notice(type: number, payload: Uint8Array): void {
    this.socket.write(abi.encodeFrame(type, 0, 0n, payload));
  }

  report(fields: ReportFields): void {
    this.notice(abi.Msg.REPORT, abi.gbReport.encode(reportOf(fields)));
  }

  async budget(
    type: number,
    tier: number,
    bytes: number,
  ): Promise<{ status: number; heldBytes: number; limitBytes: bigint }> {
    const payload = abi.gbBudget.encode({ tier, reserved: 0, bytes: BigInt(bytes) });
    const reply = abi.gbBudgetReply.decode(await this.request(type, payload));
    return {
      status: reply.status,
      heldBytes: Number(reply.held_bytes),
      limitBytes: reply.limit_bytes,
    };
  }

  grant(tier: number, bytes: number): ReturnType<ShimPeer['budget']> {
    return this.budget(abi.Msg.GRANT, tier, bytes);
  }

  giveBack(tier: number, bytes: number): ReturnType<ShimPeer['budget']> {
    return this.budget(abi.Msg.RETURN, tier, bytes);
  }

  async range(
    type: number,
    offset: number,
    length: number,
  ): Promise<ReturnType<typeof abi.gbStatusReply.decode>> {
    const payload = abi.gbRange.encode({ offset: BigInt(offset), length: BigInt(length) });
    return abi.gbStatusReply.decode(await this.request(type, payload));
  }

  place(offset: number, length: number): ReturnType<ShimPeer['range']> {
    return this.range(abi.Msg.PLACE, offset, length);
  }

  drop(offset: number, length: number): ReturnType<ShimPeer['range']> {
    return this.range(abi.Msg.DROP, offset, length);
  }

  async transfer(
    type: number,
    offset: number,
    length: number,
    stagingOffset = 0,
  ): Promise<ReturnType<typeof abi.gbStatusReply.decode>> {
    const payload = abi.gbTransfer.encode({
      offset: BigInt(offset),
      length: BigInt(length),
      staging_offset: BigInt(stagingOffset),
    });
    return abi.gbStatusReply.decode(await this.request(type, payload));
  }

  async store(offset: number, bytes: Uint8Array, stagingOffset = 0): Promise<number> {
    writeSync(this.stagingFd, bytes, 0, bytes.length, stagingOffset);
    return (await this.transfer(abi.Msg.STORE, offset, bytes.length, stagingOffset)).status;
  }

  async fetch(
    offset: number,
    length: number,
    stagingOffset = 0,
  ): Promise<{ status: number; feeder: string; bytes: Buffer }> {
    const { status, feeder } = await this.transfer(abi.Msg.FETCH, offset, length, stagingOffset);
    const bytes = Buffer.alloc(length);
    readSync(this.stagingFd, bytes, 0, length, stagingOffset);
    return { status, feeder, bytes };
  }

  close(): void {
    this.socket.destroy();
    closeSync(this.stagingFd);
  }

  private onFrame(frame: abi.Frame): void {
    if ((frame.flags & abi.FRAME_REPLY) !== 0) {
      this.calls.get(frame.requestId)?.(Buffer.from(frame.payload));
      this.calls.delete(frame.requestId);
    } else if (frame.type === abi.Msg.LOST) {
      const { offset, length, feeder } = abi.gbLost.decode(frame.payload);
      this.lost.push({ offset: Number(offset), length: Number(length), feeder });
    } else if (frame.type === abi.Msg.LIMITS) {
      this.limits.push([...abi.gbLimits.decode(frame.payload).limit_bytes]);
    }
  }
}
