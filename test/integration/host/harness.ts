// SPDX-License-Identifier: Apache-2.0
// An agent of a made-up user: folders of its own, inside this process; and what the tests ask of
// it.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { startAgent, type RunningAgent } from '../../../host/main.js';
import { sleep, systemClock } from '../../../proto/base/clock.js';
import { AgentService, type Snapshot } from '../../../proto/gen/greenboost/v1/control_pb.js';
import { createClient, type ServiceClient } from '../../../proto/grpc.js';
import { PATIENCE_MS } from '../../patience.js';

export type AgentClient = ServiceClient<typeof AgentService>;

export class TestHost {
  readonly folder = mkdtempSync(join(tmpdir(), 'gb-host-'));
  readonly env: Record<string, string>;
  private agent: RunningAgent | undefined;
  private readonly clients: AgentClient[] = [];

  constructor(env: Record<string, string> = {}) {
    process.env['GREENBOOST_LOG'] ??= 'silent';
    this.env = {
      XDG_RUNTIME_DIR: join(this.folder, 'run'),
      XDG_CONFIG_HOME: join(this.folder, 'config'),
      XDG_STATE_HOME: join(this.folder, 'state'),
      GREENBOOST_AGENT_RAM_BUDGET: '64MiB',
      GREENBOOST_GPU: 'none',
      ...env,
    };
  }

  get shimSocket(): string {
    return join(this.folder, 'run', 'greenboost', 'shim.sock');
  }

  get agentSocket(): string {
    return join(this.folder, 'run', 'greenboost', 'agent.sock');
  }

  get configDir(): string {
    return join(this.folder, 'config', 'greenboost');
  }

  async start(): Promise<RunningAgent> {
    this.agent = await startAgent({ env: this.env });
    return this.agent;
  }

  async stopAgent(): Promise<void> {
    await this.agent?.stop();
    this.agent = undefined;
  }

  client(): AgentClient {
    const credentials = grpc.credentials.createInsecure();
    const options = { 'grpc.use_local_subchannel_pool': 1 };
    const client = createClient(
      AgentService,
      `unix:${this.agentSocket}`,
      credentials,
      options,
      'AGENT_UNREACHABLE',
    );
    this.clients.push(client);
    return client;
  }

  async status(): Promise<Snapshot> {
    const client = this.client();
    return client.getStatus({}, { timeoutMs: PATIENCE_MS });
  }

  async stop(): Promise<void> {
    for (const client of this.clients) client.close();
    await this.stopAgent();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Waits until `check` gives something else than undefined or false. @throws after `timeoutMs`
 *  naming `what`. */
export async function eventually<T>(
  what: string,
  timeoutMs: number,
  check: () => Promise<T | undefined | false> | T | undefined | false,
): Promise<T> {
  const deadline = systemClock.nowMs() + timeoutMs;
  for (;;) {
    const result = await check();
    if (result !== undefined && result !== false) return result;
    if (systemClock.nowMs() > deadline) throw new Error(`${what}: not within ${timeoutMs} ms`);
    await sleep(25);
  }
}

/** Names of all events so far, oldest first. */
export function eventNames(snapshot: Snapshot): string[] {
  return snapshot.recentEvents.map(({ name }) => name);
}
