// SPDX-License-Identifier: Apache-2.0
// AgentService over this user's Unix socket: the edge to the CLI and the terminal UI.
import { chmodSync } from 'node:fs';
import type { MessageInitShape } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import { GbError } from '../../proto/base/errors.js';
import {
  CONNECT_TIMEOUT_MS,
  MESSAGE_BYTES_MAX,
  STOP_GRACE_MS,
  WATCH_INTERVAL_MS_DEFAULT,
  WATCH_INTERVAL_MS_MIN,
  WATCHERS_MAX,
} from '../../proto/base/limits.js';
import type { Clock } from '../../proto/base/clock.js';
import { bytesFromWire } from '../../proto/base/units.js';
import {
  AgentService,
  type ExplainResponseSchema,
  type GetProgramsResponseSchema,
} from '../../proto/gen/greenboost/v1/control_pb.js';
import { addService, type ServiceHandlers } from '../../proto/grpc.js';
import type { Actions } from './actions.js';
import type { EventLog } from './events.js';
import type { SnapshotInit } from './snapshot.js';
import { newestOnly, until, untilDrained, type ChangeBus } from './stream.js';

export interface ControlDeps {
  readonly clock: Clock;
  readonly changes: ChangeBus;
  readonly events: EventLog;
  readonly actions: Actions;
  readonly snapshot: () => SnapshotInit;
  /** Running programs and the last that have ended. */
  readonly programs: () => MessageInitShape<typeof GetProgramsResponseSchema>;
  /** @throws GbError NOT_FOUND. */
  readonly explain: (pid: number) => MessageInitShape<typeof ExplainResponseSchema>;
  readonly onBug: (error: unknown, where: string) => void;
}

const CONNECT_TIMEOUT_MS_MAX = 120_000;

export class ControlServer {
  private readonly server = new grpc.Server({
    'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
  });
  private readonly streams = new Set<AbortController>();

  constructor(private readonly deps: ControlDeps) {
    addService(this.server, AgentService, this.handlers(), { onBug: deps.onBug });
  }

  /** pre: nothing listens on `path`. */
  async listen(path: string): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.server.bindAsync(`unix:${path}`, grpc.ServerCredentials.createInsecure(), (error) =>
        error ? reject(error) : resolve(),
      );
    });
    chmodSync(path, 0o600);
  }

  /** Ends streams, lets unary calls finish for a moment, then cuts. */
  async close(): Promise<void> {
    for (const controller of this.streams) controller.abort();
    await new Promise<void>((resolve) => {
      const timer = this.deps.clock.after(STOP_GRACE_MS, () => this.server.forceShutdown());
      this.server.tryShutdown(() => {
        timer.cancel();
        resolve();
      });
    });
  }

  private handlers(): ServiceHandlers<typeof AgentService> {
    const { actions, snapshot, programs, explain } = this.deps;
    return {
      getStatus: () => Promise.resolve(snapshot()),
      getPrograms: () => Promise.resolve(programs()),
      explain: async ({ pid }) => explain(pid),
      watch: (call) => this.watch(call),
      connect: (request, { signal }) => {
        const timeoutMs = Math.min(request.timeoutMs || CONNECT_TIMEOUT_MS, CONNECT_TIMEOUT_MS_MAX);
        return actions.connect({
          address: request.address,
          feederId: request.feederId,
          timeoutMs,
          signal,
        });
      },
      disconnect: async ({ feeder, force, epoch }, { signal }) => {
        actions.inEpoch(epoch);
        return actions.disconnect(feeder, force, signal);
      },
      drain: (call) => this.drain(call),
      pause: async ({ feeder, epoch }) => {
        actions.inEpoch(epoch);
        return actions.setPaused(feeder, true);
      },
      resume: async ({ feeder, epoch }) => {
        actions.inEpoch(epoch);
        return actions.setPaused(feeder, false);
      },
      plan: async (request) => actions.plan(request),
      evict: async ({ pid, bytes, timeoutMs, epoch }, { signal }) => {
        actions.inEpoch(epoch);
        return actions.evict({ pid, bytes: bytesFromWire(bytes), timeoutMs, signal });
      },
      pingFeeder: (call) => this.ping(call),
      probe: async () => {
        await actions.probe();
        return snapshot();
      },
      events: (call) => this.follow(call),
      shutdown: async ({ force }) => {
        actions.shutdown(force);
        return {};
      },
    };
  }

  /** The whole state now and after changes; a watcher that does not keep up gets the newest state
   *  when it does. */
  private watch(call: Parameters<ServiceHandlers<typeof AgentService>['watch']>[0]): Promise<void> {
    const wanted = call.request.intervalMs || WATCH_INTERVAL_MS_DEFAULT;
    const intervalMs = Math.max(WATCH_INTERVAL_MS_MIN, wanted);
    const { changes, clock, snapshot } = this.deps;
    return this.stream(call, (signal) =>
      newestOnly(call, { changes, clock, intervalMs, signal, message: snapshot }),
    );
  }

  /** A watcher that does not keep up misses progress, not the end. */
  private drain(call: Parameters<ServiceHandlers<typeof AgentService>['drain']>[0]): Promise<void> {
    const { actions, clock } = this.deps;
    return this.stream(call, async (signal) => {
      actions.inEpoch(call.request.epoch);
      let behind = false;
      const done = await actions.drain(call.request.feeder, {
        signal,
        clock,
        onProgress(status) {
          if (behind || signal.aborted) return;
          behind = !call.write(status);
          if (behind) call.once('drain', () => (behind = false));
        },
      });
      if (!signal.aborted) call.write(done);
    });
  }

  private ping(
    call: Parameters<ServiceHandlers<typeof AgentService>['pingFeeder']>[0],
  ): Promise<void> {
    const { actions, clock } = this.deps;
    const { feeder, count, intervalMs } = call.request;
    return this.stream(call, async (signal) => {
      for await (const part of actions.ping(feeder, { count, intervalMs, clock, signal })) {
        if (!call.write(part)) await untilDrained(call, signal);
        if (signal.aborted) return;
      }
    });
  }

  private follow(
    call: Parameters<ServiceHandlers<typeof AgentService>['events']>[0],
  ): Promise<void> {
    const { events } = this.deps;
    return this.stream(call, async (signal) => {
      let sequence = call.request.afterSequence;
      for (;;) {
        for (const event of events.after(sequence)) {
          sequence = event.sequence;
          if (!call.write(event)) await untilDrained(call, signal);
          if (signal.aborted) return;
        }
        if (!call.request.follow) return;
        await until(signal, (done) => events.follow(done));
        if (signal.aborted) return;
      }
    });
  }

  private async stream(
    call: { on(event: 'cancelled' | 'close', listener: () => void): unknown },
    run: (signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    if (this.streams.size >= WATCHERS_MAX)
      throw new GbError('CAPACITY_EXHAUSTED', `${WATCHERS_MAX} streams are open`);
    const controller = new AbortController();
    this.streams.add(controller);
    const end = (): void => controller.abort(new GbError('CANCELED', 'the caller went away'));
    call.on('cancelled', end);
    call.on('close', end);
    try {
      await run(controller.signal);
    } finally {
      this.streams.delete(controller);
    }
  }
}
