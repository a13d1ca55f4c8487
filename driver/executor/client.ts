// SPDX-License-Identifier: Apache-2.0
// One executor process as the daemon sees it: started, asked, ended. Bytes never come this way.
//   starting -> ready -> ended          any request of an ended executor fails with DATA_LOSS: its bytes are gone
// Lanes end in that process; their connections are handed to it through `doorFd` (docs/adr/0012).
// Must not know leases or accounts.
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync } from 'node:fs';
import type { Socket } from 'node:net';
import type { Clock } from '../../proto/base/clock.js';
import { GbError, type GbErrorCode } from '../../proto/base/errors.js';
import {
  EXECUTOR_FILL_BYTES_PER_MS,
  EXECUTOR_FREES_MAX,
  EXECUTOR_PULL_POLL_MS,
  EXECUTOR_REQUEST_TIMEOUT_MS,
  EXECUTOR_START_TIMEOUT_MS,
  EXECUTOR_STOP_MS,
} from '../../proto/base/limits.js';
import type { Logger } from '../../proto/base/log.js';
import { nativePath } from '../../proto/base/paths.js';
import { cuErrorName } from '../cuda/errors.js';
import { laneStatusName } from '../lane/names.js';
import { driverEnv, type GpuDriver } from '../library.js';
import { seqpacketPair } from '../os/unix.js';
import {
  encodeRequest,
  gbxInit,
  gbxInitReply,
  gbxLaneStat,
  gbxPullRef,
  gbxRange,
  gbxRunLimit,
  gbxStat,
  gbxStatus,
  GbxDevice,
  GbxMsg,
  GBX_GPUS_MAX,
  GbxStatus,
  GBX_VERSION,
  ReplyReader,
  type GbxMsgType,
} from './abi.js';
import {
  decodeLaneEvent,
  encodeCache,
  encodeGrant,
  encodeLimit,
  encodePull,
  encodeTicket,
  laneStatFrom,
  type BlockCache,
  type LaneEvent,
  type LaneGrant,
  type LaneStat,
  type Pull,
} from './lanes.js';

export interface ExecutorOptions {
  readonly arenaBase: bigint;
  readonly arenaBytes: bigint;
  /** CUDA ordinals whose memory it may hold; empty: RAM only, no driver is loaded. */
  readonly gpuOrdinals: readonly number[];
  readonly gpu: GpuDriver;
  readonly log: Logger;
  readonly clock: Clock;
  /** Below that of the daemon; undefined: the same. */
  readonly priority?: ExecutorPriority | undefined;
  /** An executor ends whose GPU has completed nothing for so long although there was work. Default: the executor's. */
  readonly kernelMs?: number | undefined;
  /** Called for what happens to lanes; must not throw. */
  readonly onLaneEvent?: (event: LaneEvent) => void;
}

export interface ExecutorPriority {
  /** 0 to 19. */
  readonly nice?: number | undefined;
  readonly io?: { readonly class: 'best-effort' | 'idle'; readonly level: number } | undefined;
}

export interface PullOptions {
  readonly signal?: AbortSignal;
  /** Bytes in place so far; about twice a second. */
  readonly onProgress?: (bytes: number) => void;
}

/** Part of the arena on one device. `gpuOrdinal` undefined: RAM. */
export interface ExecutorRange {
  readonly gpuOrdinal?: number;
  readonly offset: bigint;
  readonly length: bigint;
}

export interface ExecutorStat {
  readonly ramBytes: number;
  readonly ramLockedBytes: number;
  /** By CUDA ordinal. */
  readonly vramBytes: ReadonlyMap<number, number>;
  readonly readBytes: number;
  readonly writeBytes: number;
  readonly rangeCount: number;
}

export interface ExecutorExit {
  /** What happened, in words. */
  readonly reason: string;
  /** True when stop() was called before. */
  readonly expected: boolean;
}

interface Waiting {
  readonly type: GbxMsgType;
  resolve(payload: Buffer): void;
  reject(error: GbError): void;
}

/** A pull ends when it ends; its progress is asked for meanwhile, so a dead executor is noticed. */
const NO_TIMEOUT = Infinity;
const STDERR_BYTES_MAX = 2_048;

export class Executor {
  /** Resolves once, when the process is gone. */
  readonly ended: Promise<ExecutorExit>;
  private readonly socket: Socket;
  private readonly waiting = new Map<bigint, Waiting>();
  private readonly reader = new ReplyReader();
  private nextId = 1n;
  private stopping = false;
  private gone: GbError | undefined;
  private lastWords = '';
  private hostNuma = false;
  private freeing = 0;
  private readonly freeWaiters: (() => void)[] = [];

  private constructor(
    private readonly child: ChildProcess,
    private readonly options: ExecutorOptions,
    /** Where the daemon's door passes the connections of this executor's lanes, one descriptor with each message of
     *  one byte. Ownership: closed here, once every handler of `ended` that was there has run. */
    readonly doorFd: number,
  ) {
    this.socket = child.stdio[3] as Socket;
    this.ended = new Promise((resolve) => {
      child.once('error', (error) => this.onEnd(`could not be started: ${error.message}`, resolve));
      child.once('exit', (code, signal) => {
        this.onEnd(signal ? `was ended by ${signal}` : `ended with code ${code}`, resolve);
      });
    });
    void this.ended.then(() => setImmediate(() => closeSync(doorFd)));
    this.socket.on('error', () => undefined); // 'exit' follows and says why.
    this.socket.on('data', (chunk: Buffer) => this.onData(chunk));
    child.stderr?.on('data', (chunk: Buffer) => {
      this.lastWords = (this.lastWords + chunk.toString('utf8')).slice(-STDERR_BYTES_MAX);
    });
  }

  /** Starts a process and has it reserve the arena. @throws GbError CAPACITY_EXHAUSTED, DRIVER_ERROR with the reason;
   *  then nothing is left running. */
  static async start(options: ExecutorOptions): Promise<Executor> {
    const [doorFd, theirs] = seqpacketPair();
    const child = spawn(nativePath('bin', 'gb-executor'), priorityArgs(options.priority), {
      cwd: '/',
      env: driverEnv(options.gpu, process.env),
      stdio: ['ignore', 'ignore', 'pipe', 'pipe', theirs],
    });
    closeSync(theirs);
    const executor = new Executor(child, options, doorFd);
    try {
      await executor.init();
      return executor;
    } catch (reason) {
      await executor.stop();
      throw reason;
    }
  }

  get pid(): number {
    return this.child.pid ?? 0;
  }

  /** True when RAM ranges are chunks the GPU sees at the same address. */
  get ramIsHostNuma(): boolean {
    return this.hostNuma;
  }

  /** Maps zeroed memory. Returns how many of its bytes are locked. @throws GbError CAPACITY_EXHAUSTED,
   *  INVALID_ARGUMENT for a range that does not fit, DATA_LOSS when the executor is gone. */
  async allocate(range: ExecutorRange): Promise<number> {
    const timeoutMs = fillTimeoutMs(range);
    const payload = this.encodeRange(range);
    const { bytes } = await this.simple(GbxMsg.ALLOCATE, payload, 'allocate', timeoutMs);
    return Number(bytes);
  }

  /** Scrubs and unmaps exactly what one allocate mapped; resolves when its bytes are the machine's
   *  again. Whoever works on them is waited for, two seconds at most: then his lane is revoked. A few
   *  at a time, so that no caller's time runs while others are scrubbed. */
  async free(range: ExecutorRange): Promise<void> {
    while (this.freeing >= EXECUTOR_FREES_MAX)
      await new Promise<void>((resolve) => this.freeWaiters.push(resolve));
    this.freeing++;
    try {
      await this.simple(GbxMsg.FREE, this.encodeRange(range), 'free', fillTimeoutMs(range));
    } finally {
      this.freeing--;
      this.freeWaiters.shift()?.();
    }
  }

  /** Makes a ticket valid: one lane to a part of the arena, to be opened within its time. What is not allocated there
   *  answers IO. @throws GbError INVALID_ARGUMENT, CAPACITY_EXHAUSTED, DRIVER_ERROR when there can be no lanes. */
  async grant(grant: LaneGrant): Promise<void> {
    await this.simple(GbxMsg.GRANT, encodeGrant(grant), 'grant');
  }

  /** Another rate for a ticket's lane, each way, from now on; 0: no limit. @throws GbError NOT_FOUND. */
  async limit(ticketId: Uint8Array, bytesPerSecond: number): Promise<void> {
    await this.simple(GbxMsg.LIMIT, encodeLimit(ticketId, bytesPerSecond), 'limit');
  }

  /** Takes a ticket back. When it resolves its lane touches nothing. @throws GbError NOT_FOUND: it was forgotten, as
   *  tickets are a minute after their lane has ended. */
  async revoke(ticketId: Uint8Array): Promise<void> {
    await this.simple(GbxMsg.REVOKE, encodeTicket(ticketId), 'revoke');
  }

  /** @throws GbError NOT_FOUND. */
  async lane(ticketId: Uint8Array): Promise<LaneStat> {
    const stat = gbxLaneStat.decode(await this.request(GbxMsg.LANE, encodeTicket(ticketId)));
    if (stat.status !== GbxStatus.OK) throw this.failure(stat.status, stat.detail, 'lane');
    return laneStatFrom(stat);
  }

  /** Fetches bytes from another feeder. While it runs, and when it failed, the destination's contents are undefined.
   *  @throws GbError CANCELED by the signal; NOT_FOUND when the destination is not allocated or is freed; DRIVER_ERROR
   *  with details.laneStatus (enum gb_lane_status) when the lane failed. */
  async pull(pull: Pull, { signal, onProgress }: PullOptions = {}): Promise<void> {
    signal?.throwIfAborted();
    const ended = this.request(GbxMsg.PULL, encodePull(pull), NO_TIMEOUT);
    const ref = gbxPullRef.encode({ request_id: this.nextId - 1n });
    const cancel = (): void => {
      this.request(GbxMsg.PULL_CANCEL, ref).catch(() => undefined); // It has ended then.
    };
    const ask = async (): Promise<void> => {
      const { status, bytes } = gbxStatus.decode(await this.request(GbxMsg.PULL_STAT, ref));
      if (status === GbxStatus.OK) onProgress?.(Number(bytes));
    };
    const poll = this.options.clock.every(EXECUTOR_PULL_POLL_MS, () => {
      ask().catch(() => undefined); // The pull itself says why.
    });
    signal?.addEventListener('abort', cancel, { once: true });
    try {
      const { status, detail, bytes } = gbxStatus.decode(await ended);
      if (status !== GbxStatus.OK) throw this.failure(status, detail, 'pull');
      onProgress?.(Number(bytes));
    } finally {
      poll.cancel();
      signal?.removeEventListener('abort', cancel);
    }
  }

  /** Says where blocks are kept; at most once, before the first grant. */
  async cache(cache: BlockCache): Promise<void> {
    await this.simple(GbxMsg.CACHE, encodeCache(cache), 'cache');
  }

  async stat(): Promise<ExecutorStat> {
    const stat = gbxStat.decode(await this.request(GbxMsg.STAT, Buffer.alloc(0)));
    if (stat.status !== GbxStatus.OK) throw this.failure(stat.status, stat.detail, 'stat');
    return {
      ramBytes: Number(stat.ram_bytes),
      ramLockedBytes: Number(stat.ram_locked_bytes),
      vramBytes: new Map(
        this.options.gpuOrdinals.map((gpu, index) => [gpu, Number(stat.vram_bytes[index])]),
      ),
      readBytes: Number(stat.read_bytes),
      writeBytes: Number(stat.write_bytes),
      rangeCount: Number(stat.range_count),
    };
  }

  /** Ends the process: in order, by closing its socket, and by force if it does not go. Resolves when it is gone. */
  async stop(): Promise<void> {
    this.stopping = true;
    this.socket.destroy();
    const force = this.options.clock.after(EXECUTOR_STOP_MS, () => this.child.kill('SIGKILL'));
    await this.ended;
    force.cancel();
  }

  private async init(): Promise<void> {
    const { arenaBase, arenaBytes, gpuOrdinals } = this.options;
    if (gpuOrdinals.length > GBX_GPUS_MAX) {
      throw new GbError('INVALID_ARGUMENT', `at most ${GBX_GPUS_MAX} GPUs can be lent together`);
    }
    const ordinals = Array.from({ length: GBX_GPUS_MAX }, (_, index) => gpuOrdinals[index] ?? 0);
    const payload = gbxInit.encode({
      version: GBX_VERSION,
      gpu_count: gpuOrdinals.length,
      arena_base: arenaBase,
      arena_bytes: arenaBytes,
      gpu_ordinals: ordinals,
    });
    const reply = gbxInitReply.decode(
      await this.request(GbxMsg.INIT, payload, EXECUTOR_START_TIMEOUT_MS),
    );
    if (reply.status !== GbxStatus.OK) throw this.failure(reply.status, reply.detail, 'init');
    if (reply.arena_base !== arenaBase)
      throw new GbError('DRIVER_ERROR', 'the executor reserved another arena');
    this.hostNuma = reply.ram_is_host_numa === 1;
    await this.limitKernels();
  }

  private async limitKernels(): Promise<void> {
    const { kernelMs, gpuOrdinals } = this.options;
    if (kernelMs === undefined || gpuOrdinals.length === 0) return;
    const limit = gbxRunLimit.encode({ kernel_ms: kernelMs, reserved: 0 });
    await this.simple(GbxMsg.RUN_LIMIT, limit, 'limit of kernels');
  }

  private encodeRange({ gpuOrdinal, offset, length }: ExecutorRange): Buffer {
    const index = gpuOrdinal === undefined ? 0 : this.options.gpuOrdinals.indexOf(gpuOrdinal);
    const kind = gpuOrdinal === undefined ? GbxDevice.RAM : GbxDevice.GPU;
    return gbxRange.encode({ device_kind: kind, device_index: index, offset, length });
  }

  private async simple(
    type: GbxMsgType,
    payload: Buffer,
    verb: string,
    timeoutMs?: number,
  ): Promise<{ bytes: bigint }> {
    const status = gbxStatus.decode(await this.request(type, payload, timeoutMs));
    if (status.status !== GbxStatus.OK) throw this.failure(status.status, status.detail, verb);
    return status;
  }

  private request(
    type: GbxMsgType,
    payload: Buffer,
    timeoutMs = EXECUTOR_REQUEST_TIMEOUT_MS,
  ): Promise<Buffer> {
    if (this.gone) return Promise.reject(this.gone);
    if (this.stopping)
      return Promise.reject(new GbError('DATA_LOSS', 'the executor is being stopped'));
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      // An executor that does not answer is as good as dead: nobody knows what its memory holds.
      const timer =
        timeoutMs === NO_TIMEOUT
          ? undefined
          : this.options.clock.after(timeoutMs, () => {
              this.lastWords += `no answer within ${timeoutMs} ms`;
              this.child.kill('SIGKILL');
            });
      const settle =
        <T>(done: (value: T) => void) =>
        (value: T): void => {
          timer?.cancel();
          this.waiting.delete(id);
          done(value);
        };
      this.waiting.set(id, { type, resolve: settle(resolve), reject: settle(reject) });
      this.socket.write(encodeRequest(type, id, payload));
    });
  }

  private onData(chunk: Buffer): void {
    try {
      for (const { type, requestId, payload } of this.reader.push(chunk)) {
        if (requestId === 0n) {
          this.onNotice(type, payload);
          continue;
        }
        const waiting = this.waiting.get(requestId);
        if (waiting?.type !== type)
          throw new GbError('PROTOCOL_VIOLATION', 'the executor answered what nobody asked');
        waiting.resolve(payload);
      }
    } catch (reason) {
      this.lastWords += GbError.from(reason).rawMessage;
      this.child.kill('SIGKILL');
    }
  }

  private onNotice(type: number, payload: Buffer): void {
    const event = type === GbxMsg.LANE_EVENT ? decodeLaneEvent(payload) : undefined;
    if (event) this.options.onLaneEvent?.(event);
  }

  private onEnd(what: string, resolve: (exit: ExecutorExit) => void): void {
    if (this.gone) return;
    const words = this.lastWords.trim().split('\n').at(-1);
    const reason = words ? `${what} (${words})` : what;
    this.gone = new GbError('DATA_LOSS', `the executor ${reason}; what it held is gone`);
    this.socket.destroy();
    for (const waiting of [...this.waiting.values()]) waiting.reject(this.gone);
    resolve({ reason, expected: this.stopping });
  }

  private failure(status: number, detail: number, verb: string): GbError {
    const [code, text] = STATUS_ERRORS[status] ?? ['DRIVER_ERROR', `answered status ${status}`];
    const name =
      status === GbxStatus.DRIVER
        ? cuErrorName(detail)
        : status === GbxStatus.LANE && laneStatusName(detail);
    const why = name ? `: ${name}` : detail ? ` (${detail})` : '';
    const words = verb === 'init' ? this.lastWords.trim().split('\n').at(-1) : '';
    return new GbError(code, `${verb}: the executor ${text}${why}${words ? `; ${words}` : ''}`, {
      details: status === GbxStatus.LANE ? { laneStatus: detail } : { detail },
    });
  }
}

/** Classes of ioprio_set(2). */
const IO_CLASSES = { 'best-effort': 2, idle: 3 } as const;

function priorityArgs(priority: ExecutorPriority | undefined): string[] {
  if (!priority) return [];
  const { nice = 0, io } = priority;
  return ['--priority', ...[nice, io ? IO_CLASSES[io.class] : 0, io?.level ?? 0].map(String)];
}

const STATUS_ERRORS: Readonly<Record<number, readonly [GbErrorCode, string]>> = {
  [GbxStatus.INVALID]: [
    'INVALID_ARGUMENT',
    'refused the range: unaligned, outside the arena, or overlapping',
  ],
  [GbxStatus.VERSION_MISMATCH]: ['DRIVER_ERROR', 'is of another version; run "make" again'],
  [GbxStatus.CAPACITY]: ['CAPACITY_EXHAUSTED', 'found no memory'],
  [GbxStatus.NOT_FOUND]: ['NOT_FOUND', 'knows no such range'],
  [GbxStatus.ARENA_UNAVAILABLE]: ['DRIVER_ERROR', 'could not reserve the arena at its address'],
  [GbxStatus.DRIVER]: ['DRIVER_ERROR', 'was refused by the CUDA driver'],
  [GbxStatus.SYSTEM]: ['DRIVER_ERROR', 'was refused by the system'],
  [GbxStatus.LANE]: ['DRIVER_ERROR', 'could not use the lane'],
  [GbxStatus.CANCELED]: ['CANCELED', 'was told to stop'],
};

/** Time for a request that touches every byte of a range. */
function fillTimeoutMs({ length }: ExecutorRange): number {
  return EXECUTOR_REQUEST_TIMEOUT_MS + Number(length) / EXECUTOR_FILL_BYTES_PER_MS;
}
