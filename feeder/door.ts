// SPDX-License-Identifier: Apache-2.0
// The lane port: one door at every address where the feeder listens, with one port for all of them.
import type { Clock, Timer } from '../proto/base/clock.js';
import { GbError } from '../proto/base/errors.js';
import { DOOR_LISTENERS_MAX, LANE_SAMPLE_INTERVAL_MS } from '../proto/base/limits.js';
import type { Logger } from '../proto/base/log.js';
import { Door } from '../driver/lane/door.js';
import type { LaneEvent } from '../driver/lane/library.js';
import type { Bind } from '../security/bind.js';
import type { LaneDoor } from './lanes.js';

/** How often another free port is tried, where port 0 was asked for and one of the addresses has it
 *  taken. */
const ANY_PORT_TRIES = 16;

export interface FeederDoorOptions {
  readonly allowWan: boolean;
  readonly clock: Clock;
  readonly log: Logger;
  /** Connections nobody knew a ticket for. */
  readonly onStranger: (event: LaneEvent) => void;
}

/** closed -> open -> closed. Routes are kept only while it is open. */
export class FeederDoor implements LaneDoor {
  private door: Door | undefined;
  private poll: Timer | undefined;

  constructor(private readonly options: FeederDoorOptions) {}

  get port(): number {
    return this.door?.port ?? 0;
  }

  /** Listens at the hosts of `binds`; `port` 0: any that is free at all of them.
   *  @throws GbError ALREADY_EXISTS saying which option to use; then it listens nowhere. */
  async open(binds: readonly Bind[], port: number): Promise<void> {
    const hosts = this.hostsOf(binds);
    for (let tries = 1; !this.door; tries++) {
      const door = Door.open({ lanOnly: !this.options.allowWan });
      try {
        for (const host of hosts) door.listen(host, port === 0 ? (door.port ?? 0) : port);
        this.door = door;
      } catch (reason) {
        await door.close();
        if (port === 0 && tries < ANY_PORT_TRIES) continue;
        throw portError(reason, port);
      }
    }
    const { clock } = this.options;
    this.poll = clock.every(LANE_SAMPLE_INTERVAL_MS, () => this.tellStrangers());
  }

  route(ticketId: Uint8Array, fd: number): void {
    if (!this.door) throw new GbError('WRONG_STATE', 'the feeder has no lane port (yet)');
    this.door.route(ticketId, fd);
  }

  forget(ticketId: Uint8Array): void {
    this.door?.forget(ticketId);
  }

  /** Nobody comes in any more; lanes that are open live on. */
  async close(): Promise<void> {
    this.poll?.cancel();
    const { door } = this;
    if (!door) return;
    this.tellStrangers();
    this.door = undefined;
    await door.close();
  }

  private tellStrangers(): void {
    for (const event of this.door?.events() ?? []) this.options.onStranger(event);
  }

  /** A machine with very many addresses: hosts find the first ones. */
  private hostsOf(binds: readonly Bind[]): string[] {
    const hosts = binds.map(({ host }) => host);
    const left = hosts.splice(DOOR_LISTENERS_MAX);
    if (left.length > 0) {
      this.options.log.warn(
        { event: 'lane_bind_skipped', hosts: left },
        `lanes listen at ${DOOR_LISTENERS_MAX} addresses at most; choose them with --bind`,
      );
    }
    return hosts;
  }
}

function portError(reason: unknown, port: number): GbError {
  const { code, rawMessage } = GbError.from(reason);
  const advice =
    code !== 'ALREADY_EXISTS'
      ? ''
      : port === 0
        ? '; name a free one with --lane-port'
        : '; choose another with --lane-port (0: any free one)';
  return new GbError(code, `${rawMessage}${advice}`, { cause: reason });
}
