// SPDX-License-Identifier: Apache-2.0
// What the agent says while it happens: `greenboost events --follow` and `cluster --watch`, kept
// running over restarts of the agent. They run outside the namespaces, so they are not suspended
// with the host.
import { spawn, type ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { EventJson, SnapshotJson } from '../../tui/model/snapshot.js';
import { CLI, waitFor, type Machine } from './machine.js';

class Follower<T> {
  private child: ChildProcess | undefined;
  private over = false;
  private readonly ended: Promise<void>;

  constructor(
    private readonly machine: Machine,
    private readonly args: readonly string[],
    private readonly take: (item: T) => void,
  ) {
    this.ended = this.run();
  }

  private async run(): Promise<void> {
    while (!this.over) {
      const child = spawn(process.execPath, [CLI, ...this.args], {
        env: this.machine.env,
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      this.child = child;
      createInterface({ input: child.stdout }).on('line', (line) => {
        if (line.startsWith('{')) this.take(JSON.parse(line) as T);
      });
      await new Promise((resolve) => child.on('close', resolve));
      await sleep(100);
    }
  }

  async close(): Promise<void> {
    this.over = true;
    this.child?.kill('SIGKILL');
    await this.ended;
  }
}

/** An event, and when this process heard of it: its own time is a wall clock that tests set. */
export interface HeardEvent extends EventJson {
  readonly heardMs: number;
}

export class EventLog {
  readonly all: HeardEvent[] = [];
  private readonly known = new Set<string>();
  private readonly follower: Follower<EventJson>;

  constructor(machine: Machine) {
    // Its own snapshot of the past comes again with every restart of the stream.
    this.follower = new Follower<EventJson>(machine, ['events', '--follow', '--json'], (event) => {
      const key = `${event.unixMs} ${event.sequence} ${event.name} ${event.text}`;
      if (this.known.has(key)) return;
      this.known.add(key);
      this.all.push({ ...event, heardMs: Date.now() });
    });
  }

  /** Waits for an event that was heard of at `fromMs` or later. */
  async wait(
    what: string,
    wanted: (event: HeardEvent) => boolean,
    fromMs: number,
    timeoutMs: number,
  ): Promise<HeardEvent> {
    return waitFor(
      `event ${what}`,
      () => this.all.find((event) => event.heardMs >= fromMs && wanted(event)),
      timeoutMs,
    );
  }

  close(): Promise<void> {
    return this.follower.close();
  }
}

/** The newest state of the agent. */
export class StateWatch {
  latest: SnapshotJson | undefined;
  private heardMs = 0;
  private readonly follower: Follower<SnapshotJson>;

  constructor(machine: Machine) {
    this.follower = new Follower<SnapshotJson>(
      machine,
      ['cluster', '--watch', '--json', '--interval', '0.25'],
      (snapshot) => {
        this.latest = snapshot;
        this.heardMs = Date.now();
      },
    );
  }

  /** The latest, if it came at `fromMs` or later. */
  fresh(fromMs: number): SnapshotJson | undefined {
    return this.heardMs >= fromMs ? this.latest : undefined;
  }

  close(): Promise<void> {
    return this.follower.close();
  }
}
