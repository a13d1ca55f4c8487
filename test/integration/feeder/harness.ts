// SPDX-License-Identifier: Apache-2.0
// A real feeder in this process (real TLS with a pairing key, real executors), and hosts that talk
// to it.
import { expect } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createId, type HostId } from '../../../proto/base/ids.js';
import { createLogger } from '../../../proto/base/log.js';
import {
  DeviceKind,
  FeederService,
  LaneRight,
  type LeaseRef,
} from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { FeedService } from '../../../proto/gen/greenboost/v1/control_pb.js';
import { createClient, type ServiceClient } from '../../../proto/grpc.js';
import * as grpc from '@grpc/grpc-js';
import { LaneClient } from '../../../driver/lane/client.js';
import { createPskChannelCredentials } from '../../../security/channel.js';
import { deriveLaneSecret, type Exporter } from '../../../security/derive.js';
import { loadOrCreateFeederKeys } from '../../../security/key-file.js';
import {
  startFeeder,
  type FeederDependencies,
  type FeederOptions,
  type RunningFeeder,
} from '../../../feeder/main.js';
import { PATIENCE_MS } from '../../patience.js';

export const MIB = 2 ** 20;
export const RAM = { kind: DeviceKind.RAM, index: 0 };
export const GPU = { kind: DeviceKind.GPU, index: 0 };
export const ARENA_BASE = 0x500000000000n;
export const ARENA_BYTES = 1n << 34n;

export type Client = ServiceClient<typeof FeederService>;

export type SilentClient = Client & { exporter(): Exporter };

/** What a host asks of OpenLane, and what it does with the ticket. */
export interface LaneWish {
  readonly offset?: number;
  readonly length?: number;
  readonly rights?: LaneRight;
  readonly connections?: number;
}

export interface Ticket {
  readonly id: Uint8Array;
  readonly secret: Uint8Array;
  readonly address: string;
  readonly port: number;
}

export interface TestFeeder {
  readonly feeder: RunningFeeder;
  readonly folder: string;
  readonly socketPath: string;
  /** `features`: offered in Hello. */
  connect(hostId?: HostId, features?: bigint): Promise<TestHost>;
  /** A session that has not said Hello. */
  connectSilently(): SilentClient;
  control(): ServiceClient<typeof FeedService>;
  stop(): Promise<void>;
}

export interface TestHost {
  readonly client: Client;
  readonly hostId: HostId;
  lease(bytes: { ram?: number; gpu?: number }): Promise<LeaseRef>;
  allocate(lease: LeaseRef, offset: number, length: number, device?: typeof RAM): Promise<bigint>;
  free(lease: LeaseRef, offset: number, length: number, device?: typeof RAM): Promise<void>;
  /** Over a lane of its own. */
  write(lease: LeaseRef, offset: number, data: Uint8Array): Promise<void>;
  read(lease: LeaseRef, offset: number, length: number): Promise<Buffer>;
  /** capacity, leased and used bytes of a device, now. */
  account(device?: typeof RAM): Promise<{ capacity: number; leased: number; used: number }>;
  /** A ticket to a part of a lease's arena; without one to scratch memory. */
  ticket(lease: LeaseRef | undefined, wish?: LaneWish): Promise<Ticket>;
  /** The same, and its lane opened. Ownership: the caller closes it, or stop() of its feeder does.
   * */
  lane(lease: LeaseRef | undefined, wish?: LaneWish): Promise<LaneClient>;
  close(): void;
}

export async function openFeeder(
  options: FeederOptions = {},
  dependencies: FeederDependencies = {},
): Promise<TestFeeder> {
  const folder = mkdtempSync(join(tmpdir(), 'greenboost-feeder-'));
  const socketPath = join(folder, 'run', 'feed.sock');
  const feeder = await startFeeder(
    {
      ramBytes: 256 * MIB,
      port: 0,
      bind: ['127.0.0.1'],
      gpu: 'none',
      name: 'test',
      ramReserveBytes: 64 * MIB,
      configDir: join(folder, 'config'),
      stateDir: join(folder, 'state'),
      cacheBytes: 0,
      leaseTtlMs: 600_000, // These hosts renew nothing.
      controlSocket: socketPath,
      ...options,
    },
    {
      log: createLogger({ name: 'feeder', file: join(folder, 'feeder.log'), level: 'debug' }),
      ...dependencies,
    },
  );
  const clients: { close(): void }[] = [];
  const lanes: LaneClient[] = [];
  const connectSilently = (): SilentClient => {
    const key = loadOrCreateFeederKeys(options.configDir ?? join(folder, 'config')).keys[0]!;
    let exporter: Exporter | undefined;
    const client = createClient(
      FeederService,
      feeder.addresses[0] as string,
      createPskChannelCredentials({ key, onSecure: (info) => (exporter = info.exporter) }),
      {
        'grpc.enable_http_proxy': 0,
        'grpc.max_receive_message_length': 4 * MIB,
      },
      'FEEDER_UNREACHABLE',
    );
    clients.push(client);
    return Object.assign(client, { exporter: () => exporter as Exporter });
  };
  return {
    feeder,
    folder,
    socketPath,
    connectSilently,
    connect: (hostId = createId('host'), features = 0n) =>
      sayHello(connectSilently(), { ...hello(hostId), featuresOffered: features }, lanes),
    control() {
      const credentials = grpc.credentials.createInsecure();
      const client = createClient(
        FeedService,
        `unix:${socketPath}`,
        credentials,
        {},
        'FEEDER_UNREACHABLE',
      );
      clients.push(client);
      return client;
    },
    async stop() {
      await Promise.all(lanes.map((lane) => lane.close()));
      for (const client of clients) client.close();
      await feeder.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

export const hello = (hostId: string) => ({
  version: { major: 1, minor: 0 },
  hostId,
  hostName: 'testhost',
  software: 'test',
});

async function sayHello(
  client: SilentClient,
  words: ReturnType<typeof hello> & { featuresOffered: bigint },
  lanes: LaneClient[],
): Promise<TestHost> {
  const told = await client.hello(words, { timeoutMs: PATIENCE_MS });
  const big = BigInt;
  const ticket: TestHost['ticket'] = async (lease, wish = {}) => {
    const rights = wish.rights ?? LaneRight.READ_WRITE;
    const { connections = 1, offset = 0 } = wish;
    const length = wish.length ?? (lease ? Number(ARENA_BYTES) - offset : 0);
    const span = { offset: big(offset), length: big(length), rights, connections };
    const asked = await client.openLane(lease ? { lease, ...span } : { probe: true, ...span });
    const secret = deriveLaneSecret(client.exporter(), asked.ticketId);
    expect(asked.port).toBe(told.lanePort);
    return { id: asked.ticketId, secret, address: '127.0.0.1', port: asked.port };
  };
  const withLane = async <T>(
    lease: LeaseRef,
    wish: LaneWish,
    use: (lane: LaneClient) => Promise<T>,
  ): Promise<T> => {
    const own = await ticket(lease, wish);
    const lane = await openTicket(own);
    try {
      return await use(lane);
    } finally {
      await lane.close();
      // It may be known to have ended already.
      await client.closeLane({ ticketId: own.id }).catch(() => undefined);
    }
  };
  return {
    ticket,
    async lane(lease, wish) {
      const lane = await openTicket(await ticket(lease, wish), wish?.connections);
      lanes.push(lane);
      return lane;
    },
    client,
    hostId: words.hostId as HostId,
    async lease({ ram = 0, gpu = 0 }) {
      const devices = [
        ...(ram ? [{ device: RAM, bytes: big(ram) }] : []),
        ...(gpu ? [{ device: GPU, bytes: big(gpu) }] : []),
      ];
      const request = {
        attachmentId: randomBytes(16).toString('hex'),
        arenaBase: ARENA_BASE,
        arenaBytes: ARENA_BYTES,
        devices,
      };
      return (await client.acquireLease(request)).lease!;
    },
    async allocate(lease, offset, length, device = RAM) {
      return (
        await client.allocate({
          lease,
          range: { device, offset: big(offset), length: big(length) },
        })
      ).lockedBytes;
    },
    async free(lease, offset, length, device = RAM) {
      await client.free({ lease, range: { device, offset: big(offset), length: big(length) } });
    },
    write: (lease, offset, data) =>
      withLane(lease, { offset, length: data.length, rights: LaneRight.WRITE }, (lane) =>
        lane.write(0, 0, data),
      ),
    read: (lease, offset, length) =>
      withLane(lease, { offset, length, rights: LaneRight.READ }, async (lane) => {
        const into = Buffer.alloc(length);
        await lane.read(0, 0, into);
        return into;
      }),
    async account(device = RAM) {
      const { devices } = await firstStats(client);
      const lent = devices.find(({ id }) => id?.kind === device.kind && id.index === device.index)!;
      return {
        capacity: Number(lent.capacityBytes),
        leased: Number(lent.leasedBytes),
        used: Number(lent.usedBytes),
      };
    },
    close: () => client.close(),
  };
}

/** Opens the lane of a ticket. Ownership: the caller closes it. */
export function openTicket(ticket: Ticket, connections = 1): Promise<LaneClient> {
  const { address, port } = ticket;
  return LaneClient.open({ address, port, ticket, connections });
}

export async function firstStats(client: Client) {
  const call = client.watchStats({ intervalMs: 1_000 });
  for await (const message of call) {
    call.cancel();
    return message as {
      devices: { id?: typeof RAM; capacityBytes: bigint; leasedBytes: bigint; usedBytes: bigint }[];
      leaseCount: number;
      state: number;
      sessionCount: number;
    };
  }
  throw new Error('no statistics');
}

/** The code a promise rejects with, or 'OK'. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'OK';
  } catch (reason) {
    return (reason as { code?: string }).code ?? String(reason);
  }
}

export async function until(
  what: string,
  probe: () => Promise<boolean> | boolean,
  timeoutMs = PATIENCE_MS,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await probe())) {
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await sleep(20);
  }
}

/** Bytes that say where they belong. */
export function pattern(length: number, seed: number): Buffer {
  const data = Buffer.allocUnsafe(length);
  for (let at = 0; at + 4 <= length; at += 4)
    data.writeUInt32LE((at * 2654435761 + seed * 40503) >>> 0, at);
  return data;
}

/** Processes named gb-executor whose parent is `pid`. */
export function executorsOf(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
        const [, comm, rest] = /^\d+ \((.*)\) (.*)$/s.exec(stat) ?? [];
        return (
          comm === 'gb-executor' && rest?.split(' ')[1] === String(pid) && !rest.startsWith('Z')
        );
      } catch {
        return false; // It ended meanwhile.
      }
    })
    .map(Number);
}
