// SPDX-License-Identifier: Apache-2.0
// FeedService for `greenboost feed status|stop`, on a Unix socket that only this user can open.
import { chmodSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import type { Clock } from '../proto/base/clock.js';
import { GbError } from '../proto/base/errors.js';
import { MESSAGE_BYTES_MAX, STOP_GRACE_MS } from '../proto/base/limits.js';
import type { Logger } from '../proto/base/log.js';
import { ensurePrivateDir } from '../proto/base/paths.js';
import { FeedService } from '../proto/gen/greenboost/v1/control_pb.js';
import { addService, type ServiceHandlers } from '../proto/grpc.js';
import { tryLockFile } from '../driver/os/unix.js';

export interface ControlServer {
  /** Answers what is under way, then closes the socket. */
  stop(): Promise<void>;
}

export interface ControlOptions {
  readonly socketPath: string;
  readonly handlers: ServiceHandlers<typeof FeedService>;
  readonly clock: Clock;
  readonly log: Logger;
}

/** Opens the socket. @throws GbError ALREADY_EXISTS when another feeder of this user has it. */
export async function openControl(options: ControlOptions): Promise<ControlServer> {
  const { socketPath, handlers, clock, log } = options;
  ensurePrivateDir(dirname(socketPath));
  // The lock ends with its process, however it ends; the socket file may be left over.
  const lock = tryLockFile(`${socketPath}.lock`);
  if (!lock) {
    throw new GbError(
      'ALREADY_EXISTS',
      'a feeder of this user runs already; see "greenboost feed status"',
    );
  }
  const server = new grpc.Server({ 'grpc.max_receive_message_length': MESSAGE_BYTES_MAX });
  try {
    rmSync(socketPath, { force: true });
    addService(server, FeedService, handlers, {
      onBug: (err, method) => log.error({ event: 'bug', err, method }, 'a handler failed'),
    });
    await bind(server, socketPath);
    chmodSync(socketPath, 0o600);
  } catch (reason) {
    lock.release();
    throw reason;
  }
  return {
    async stop() {
      await new Promise<void>((resolve) => {
        const force = clock.after(STOP_GRACE_MS, () => server.forceShutdown());
        server.tryShutdown(() => {
          force.cancel();
          resolve();
        });
      });
      rmSync(socketPath, { force: true });
      lock.release();
    },
  };
}

function bind(server: grpc.Server, socketPath: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`unix:${socketPath}`, grpc.ServerCredentials.createInsecure(), (error) => {
      if (error)
        reject(
          new GbError('DRIVER_ERROR', `cannot open ${socketPath}: ${error.message}`, {
            cause: error,
          }),
        );
      else resolve();
    });
  });
}
