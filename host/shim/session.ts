// SPDX-License-Identifier: Apache-2.0
// One connection to the shim socket: HELLO, then requests side by side, replies in any order,
// notices both ways. A peer that breaks the rules of gb_abi.h is closed.
import type { Socket } from 'node:net';
import { formatUuid } from '../../driver/cuda/uuid.js';
import { peerCredentials } from '../../driver/os/unix.js';
import type { Clock } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import { agree, type Terms } from '../../proto/base/negotiation.js';
import {
  SHIM_BACKLOG_BYTES_MAX,
  SHIM_EVENTS_PER_SECOND_MAX,
  SHIM_HELLO_TIMEOUT_MS,
} from '../../proto/base/limits.js';
import type { VramArbiter } from '../attachments/arbiter.js';
import type { Attachment } from '../attachments/attachment.js';
import type {
  AttachmentFacts,
  MoveOutcomeName,
  MovePhaseName,
  MoveWish,
  ShimPeer,
} from '../attachments/facts.js';
import type { GrantDesk } from '../attachments/grants.js';
import { identifyProcess, readRunId } from '../attachments/process.js';
import type { AttachmentRegistry } from '../attachments/registry.js';
import { plainText, type EventLog, type Severity } from '../control/events.js';
import type { ProgramHistory } from '../control/history.js';
import type { Ledger } from '../ledger.js';
import type { ByteRange } from '../placement/residency.js';
import * as abi from './abi.js';
import { Answers, boundedBytes } from './answers.js';
import { MoveCalls } from './moves.js';
import { statusOf } from './status.js';

export interface SessionDeps {
  readonly registry: AttachmentRegistry;
  readonly desk: GrantDesk;
  readonly arbiter: VramArbiter;
  readonly history: ProgramHistory;
  readonly ledger: Ledger;
  readonly events: EventLog;
  readonly clock: Clock;
  readonly touch: () => void;
  readonly onBug: (error: unknown, where: string) => void;
  /** A peer was closed for breaking the rules. */
  readonly onViolation: (reason: GbError) => void;
  /** A program was not let in. */
  readonly onRefusal: (reason: GbError) => void;
}

type Phase =
  { t: 'new' } | { t: 'greeting' } | { t: 'attached'; attachment: Attachment } | { t: 'closed' };

/** What this agent agrees to in HELLO. */
const TERMS: Terms = {
  contract: 'ABI',
  peer: 'the shim',
  self: 'this agent',
  version: { major: abi.ABI_MAJOR, minor: abi.ABI_MINOR },
  features: abi.FEATURE_GATED | abi.FEATURE_REPLICAS | abi.FEATURE_DISPATCH | abi.FEATURE_DEVICES,
};

const SEVERITIES: readonly Severity[] = ['info', 'warning', 'error'];

export class ShimSession implements ShimPeer {
  private phase: Phase = { t: 'new' };
  private readonly decoder = new abi.FrameDecoder();
  private readonly outstanding = new Set<bigint>();
  private readonly moves: MoveCalls;
  private readonly answers: Answers;
  private eventWindow = { startMs: 0, count: 0 };
  private lastLimits: readonly bigint[] = [];

  /** Ownership: the session closes the socket. `onClosed` is called once. */
  constructor(
    private readonly socket: Socket,
    private readonly deps: SessionDeps,
    private readonly onClosed: (session: ShimSession) => void,
  ) {
    const { desk, touch, onBug } = deps;
    this.moves = new MoveCalls(deps.clock, (payload) => this.send(abi.Msg.MOVE, 0, 0n, payload));
    this.answers = new Answers({ desk, moves: this.moves, touch, onBug });
    const timer = deps.clock.after(SHIM_HELLO_TIMEOUT_MS, () => {
      if (this.phase.t === 'new')
        this.violation(new GbError('PROTOCOL_VIOLATION', 'no HELLO in time'));
    });
    socket.on('data', (chunk: Buffer) => this.onData(chunk));
    socket.on('error', () => undefined);
    socket.on('close', () => {
      timer.cancel();
      this.ended();
    });
  }

  /** False until HELLO was answered. */
  get greeted(): boolean {
    return this.phase.t === 'attached';
  }

  lost(range: ByteRange, feederName: string): void {
    const payload = abi.gbLost.encode({
      offset: BigInt(range.offset),
      length: BigInt(range.length),
      feeder: feederName,
    });
    this.send(abi.Msg.LOST, 0, 0n, payload);
  }

  move(wish: MoveWish, phase: MovePhaseName): Promise<MoveOutcomeName> {
    return this.moves.ask(wish, phase);
  }

  cancelMove(wish: MoveWish): void {
    this.moves.cancel(wish);
  }

  close(_why: string): void {
    this.socket.destroy();
  }

  /** Tells the shim its limits when they have changed by more than a trifle. */
  noticeLimits(): void {
    if (this.phase.t !== 'attached') return;
    const limits = wireLimits(this.deps.desk.limits(this.phase.attachment));
    const before = this.lastLimits;
    // The share of VRAM moves in steps already, and every step of it counts.
    const isOther = (limit: bigint, tier: number): boolean =>
      tier === abi.AbiTier.T1 ? limit !== before[tier] : isNews(before[tier] ?? 0n, limit);
    if (!limits.some(isOther)) return;
    this.lastLimits = limits;
    this.send(abi.Msg.LIMITS, 0, 0n, abi.gbLimits.encode({ limit_bytes: limits }));
  }

  private ended(): void {
    const { phase } = this;
    if (phase.t === 'closed') return;
    this.phase = { t: 'closed' };
    this.moves.end();
    if (phase.t === 'attached') {
      this.deps.registry.detach(phase.attachment, this);
    }
    this.onClosed(this);
  }

  private violation(reason: GbError): void {
    if (this.phase.t === 'closed') return;
    this.deps.onViolation(reason);
    this.socket.destroy();
    this.ended();
  }

  private onData(chunk: Buffer): void {
    try {
      for (const frame of this.decoder.push(chunk)) this.onFrame(frame);
    } catch (reason) {
      this.violation(GbError.from(reason, 'PROTOCOL_VIOLATION'));
    }
  }

  private onFrame(frame: abi.Frame): void {
    const { phase } = this;
    if (phase.t === 'closed') return;
    if ((frame.flags & abi.FRAME_REPLY) !== 0)
      throw new GbError('PROTOCOL_VIOLATION', 'a reply from the shim');
    if (phase.t === 'attached') return this.onAttachedFrame(phase.attachment, frame);
    if (phase.t !== 'new' || frame.type !== abi.Msg.HELLO || frame.requestId === 0n) {
      throw new GbError(
        'PROTOCOL_VIOLATION',
        'the first message must be HELLO, and nothing before its answer',
      );
    }
    this.phase = { t: 'greeting' };
    this.greet(frame).catch((reason: unknown) => {
      this.replyHello(frame.requestId, statusOf(reason), 0n, []);
      this.deps.onRefusal(GbError.from(reason));
      this.socket.end();
      this.ended();
    });
  }

  private async greet(frame: abi.Frame): Promise<void> {
    const { hello, features } = helloFrom(frame.payload);
    const facts = await this.factsFrom(hello, features);
    if (this.phase.t === 'closed') return;
    const bytesOf = (tier: number) => boundedBytes(hello.held_bytes[tier] ?? 0n);
    const held = {
      t1Bytes: bytesOf(abi.AbiTier.T1),
      t2Bytes: bytesOf(abi.AbiTier.T2),
      t3Bytes: bytesOf(abi.AbiTier.T3),
      feederBytes: bytesOf(abi.AbiTier.T1R) + bytesOf(abi.AbiTier.T2R),
    };
    const attachment = await this.deps.registry.attach(facts, held, this);
    if ((this.phase as Phase).t === 'closed') return this.deps.registry.detach(attachment, this);
    this.phase = { t: 'attached', attachment };
    this.deps.arbiter.update();
    const limits = wireLimits(this.deps.desk.limits(attachment));
    this.lastLimits = limits;
    this.replyHello(frame.requestId, abi.Status.OK, features, limits);
  }

  /** Who is really behind the socket, and what it says of itself within bounds. */
  private async factsFrom(hello: abi.Hello, features: bigint): Promise<AttachmentFacts> {
    const peer = peerCredentials(
      (this.socket as unknown as { _handle: { fd: number } })._handle.fd,
    );
    if (peer.uid !== process.getuid?.())
      throw new GbError('PERMISSION_DENIED', 'a program of another user');
    if (peer.pid !== hello.pid) {
      throw new GbError(
        'PERMISSION_DENIED',
        `the program says pid ${hello.pid}, the kernel ${peer.pid}`,
      );
    }
    const identity = await identifyProcess(peer.pid);
    if (!identity) throw new GbError('PERMISSION_DENIED', 'the program is gone');
    const { arena_base: arenaBase, arena_bytes: arenaBytes } = hello;
    const gated = (features & abi.FEATURE_GATED) !== 0n;
    checkArena(arenaBase, arenaBytes, gated);
    return {
      attachmentId: Buffer.from(hello.attachment_id).toString('hex'),
      identity,
      command: plainText(hello.command, 128),
      deviceName: plainText(hello.device_name, 64),
      deviceUuid: deviceUuid(hello.device_uuid),
      deviceTotalBytes: boundedBytes(hello.device_total_bytes),
      arenaBase,
      arenaBytes: Number(arenaBytes),
      gated,
      dispatch: (features & (abi.FEATURE_DISPATCH | abi.FEATURE_DEVICES)) !== 0n,
      devices: (features & abi.FEATURE_DEVICES) !== 0n,
      copies: gated && (features & abi.FEATURE_REPLICAS) !== 0n ? 2 : 1,
      vramBudgetBytes: optionalBytes(hello.vram_budget_bytes),
      ramBudgetBytes: optionalBytes(hello.ram_budget_bytes),
      startedUnixMs: this.deps.clock.unixMs(),
      runId: await readRunId(peer.pid),
    };
  }

  private onAttachedFrame(attachment: Attachment, frame: abi.Frame): void {
    const { type, requestId } = frame;
    if (type === abi.Msg.REPORT) return this.onReport(attachment, frame);
    if (type === abi.Msg.EVENT) return this.onEvent(attachment, frame);
    if (type === abi.Msg.LANES)
      return attachment.lanes.note(abi.gbLaneReport.decode(frame.payload));
    if (!Answers.isRequest(type)) {
      if ((frame.flags & abi.FRAME_OPTIONAL) !== 0) return;
      throw new GbError('PROTOCOL_VIOLATION', `message type ${type}`);
    }
    if (requestId === 0n || this.outstanding.has(requestId)) {
      throw new GbError('PROTOCOL_VIOLATION', `request id ${requestId} twice or 0`);
    }
    if (this.outstanding.size >= abi.REQUESTS_MAX)
      throw new GbError('PROTOCOL_VIOLATION', 'too many requests at once');
    // Decoding errors are the peer's and close it; what follows is answered.
    const answer = this.answers.of(attachment, frame);
    this.outstanding.add(requestId);
    answer()
      .then((payload) => this.send(type, abi.FRAME_REPLY, requestId, payload))
      .catch((reason: unknown) => this.deps.onBug(reason, 'answer to the shim'))
      .finally(() => this.outstanding.delete(requestId));
  }

  private onReport(attachment: Attachment, frame: abi.Frame): void {
    const report = abi.gbReport.decode(frame.payload);
    attachment.report = report;
    this.deps.history.note(attachment);
    this.deps.ledger.report(attachment.id, boundedBytes(report.used_bytes[abi.AbiTier.T2] ?? 0n));
    this.deps.touch();
  }

  private onEvent(attachment: Attachment, frame: abi.Frame): void {
    const event = abi.gbEvent.decode(frame.payload);
    const nowMs = this.deps.clock.nowMs();
    if (nowMs - this.eventWindow.startMs >= 1000) this.eventWindow = { startMs: nowMs, count: 0 };
    if (++this.eventWindow.count > SHIM_EVENTS_PER_SECOND_MAX) return;
    const name = /^[a-z][a-z0-9_]{0,46}$/.test(event.name) ? event.name : 'shim_event';
    const cuda = event.cuda_error === 0 ? '' : ` (CUDA error ${event.cuda_error})`;
    const text = `${plainText(event.text, 200)}${cuda}`;
    this.deps.events.add(
      SEVERITIES[event.severity] ?? 'error',
      name,
      `pid ${attachment.facts.identity.pid}`,
      text,
    );
  }

  private replyHello(
    requestId: bigint,
    status: number,
    features: bigint,
    limits: readonly bigint[],
  ): void {
    const payload = abi.gbHelloAck.encode({
      status,
      abi_major: abi.ABI_MAJOR,
      abi_minor: abi.ABI_MINOR,
      features,
      agent_pid: process.pid,
      reserved: 0,
      limit_bytes:
        limits.length === abi.TIER_COUNT ? limits : new Array<bigint>(abi.TIER_COUNT).fill(0n),
    });
    this.send(abi.Msg.HELLO, abi.FRAME_REPLY, requestId, payload);
  }

  private send(type: number, flags: number, requestId: bigint, payload: Buffer): void {
    if (this.phase.t === 'closed' || this.socket.destroyed) return;
    this.socket.write(abi.encodeFrame(type, flags, requestId, payload));
    if (this.socket.writableLength > SHIM_BACKLOG_BYTES_MAX) {
      this.violation(new GbError('PROTOCOL_VIOLATION', 'the shim does not read its answers'));
    }
  }
}

/** A program without an arena (plain form, or nothing allocated yet) has 0 bytes of it and keeps
 *  nothing on feeders. */
function checkArena(base: bigint, bytes: bigint, gated: boolean): void {
  if (bytes === 0n && !gated) return;
  const inside =
    base >= abi.ARENA_WINDOW_BASE && bytes > 0n && base + bytes <= abi.ARENA_WINDOW_END;
  const aligned = base % BigInt(abi.RANGE_ALIGN) === 0n && bytes % BigInt(abi.RANGE_ALIGN) === 0n;
  if (!inside || !aligned)
    throw new GbError('PERMISSION_DENIED', 'the arena lies outside its window');
}

/** Empty for a device that has none. */
function deviceUuid(bytes: Uint8Array): string {
  return bytes.every((byte) => byte === 0) ? '' : formatUuid(bytes);
}

function optionalBytes(value: bigint): number | undefined {
  return value === abi.UINT64_MAX ? undefined : boundedBytes(value);
}

function wireLimits(limits: readonly (number | undefined)[]): bigint[] {
  return limits.map((limit) => (limit === undefined ? abi.UINT64_MAX : BigInt(limit)));
}

/** Changes below both of these are not worth a notice. */
const LIMIT_STEP_BYTES = 16n << 20n;
const LIMIT_STEP_FRACTION = 64n;

function isNews(before: bigint, now: bigint): boolean {
  const difference = now > before ? now - before : before - now;
  return difference > LIMIT_STEP_BYTES && difference > before / LIMIT_STEP_FRACTION;
}

/** What the shim says, and the features in force. The version is looked at before the rest: another major version may
 *  have another HELLO. @throws GbError PROTOCOL_VIOLATION, UNSUPPORTED. */
function helloFrom(payload: Buffer): { hello: abi.Hello; features: bigint } {
  const head = abi.gbHelloHead.decode(payload);
  if (head.magic !== abi.ABI_MAGIC)
    throw new GbError('PROTOCOL_VIOLATION', 'not a greenboost shim');
  const version = { major: head.abi_major, minor: head.abi_minor };
  if (version.major !== abi.ABI_MAJOR) agree({ version, offered: 0n, required: 0n }, TERMS);
  const hello = abi.gbHello.decode(payload);
  const { features: offered, features_required: required } = hello;
  return { hello, features: consistent(agree({ version, offered, required }, TERMS), required) };
}

/** Kernels run on feeders only with GATED, and where every byte has one copy; feeders' GPUs are devices only without
 *  both. @throws GbError UNSUPPORTED. */
function consistent(features: bigint, required: bigint): bigint {
  const gated = (features & abi.FEATURE_GATED) !== 0n;
  const copied = (features & abi.FEATURE_REPLICAS) !== 0n;
  const dispatches = gated && !copied;
  const possible = dispatches ? abi.FEATURE_DISPATCH : gated || copied ? 0n : abi.FEATURE_DEVICES;
  const refused = (abi.FEATURE_DISPATCH | abi.FEATURE_DEVICES) & ~possible;
  if ((required & refused & abi.FEATURE_DISPATCH) !== 0n)
    throw new GbError('UNSUPPORTED', 'kernels run on feeders only with gated, and one copy');
  if ((required & refused) !== 0n)
    throw new GbError('UNSUPPORTED', 'feeders are devices only without gated and replicas');
  return features & ~refused;
}
