// SPDX-License-Identifier: Apache-2.0
// Feeders that only play their part: real TLS, gRPC and leases on a real port each, but no memory behind them, so that
// one machine has many. Each offers every program a little (2 MiB) and says so again twice a second; links are measured
// over a real lane that they share. Started by leases.mjs with the keys on standard input; prints the addresses.
import { randomBytes } from 'node:crypto';
import * as grpc from '@grpc/grpc-js';
import { Door } from '../../build/js/driver/lane/door.js';
import { LaneServer } from '../../build/js/driver/lane/server.js';
import { seqpacketPair } from '../../build/js/driver/os/unix.js';
import { systemClock } from '../../build/js/proto/base/clock.js';
import { GbError } from '../../build/js/proto/base/errors.js';
import { createId } from '../../build/js/proto/base/ids.js';
import { LANE_PROBE_BYTES } from '../../build/js/proto/base/limits.js';
import { createLogger } from '../../build/js/proto/base/log.js';
import { FeederService, FeederState } from '../../build/js/proto/gen/greenboost/v1/feeder_pb.js';
import { addService } from '../../build/js/proto/grpc.js';
import { deriveLaneSecret } from '../../build/js/security/derive.js';
import { listenPsk } from '../../build/js/security/listener.js';
import { parsePairingKey } from '../../build/js/security/pairing.js';

const OFFER_BYTES = 2n << 20n;
const RAM = { kind: 1, index: 0 };

/** One door and one server for the probes of all feeders of this process. */
async function openProbes() {
  const door = Door.open({ lanOnly: true });
  door.listen('127.0.0.1', 0);
  const [ours, theirs] = seqpacketPair();
  const server = await LaneServer.open({ adoptFd: theirs });
  const memory = await server.memory(LANE_PROBE_BYTES);
  return (session) => {
    const id = randomBytes(16);
    const secret = deriveLaneSecret(session.exporter, id);
    server.grant({ ticket: { id, secret }, memory, connections: 1 });
    door.route(id, ours);
    return { ticketId: id, port: door.port, ttlMs: 30_000 };
  };
}

class Feeder {
  leases = new Map();
  sessions = new Map();
  renewals = 0;
  renewed = 0;

  constructor(key, index, probe) {
    this.key = key;
    this.name = `sim${index}`;
    this.probe = probe;
    this.incarnation = createId('session');
  }

  devices() {
    const leased = [...this.leases.values()].reduce((sum, { bytes }) => sum + bytes, 0n);
    const device = { id: RAM, name: 'RAM', capacityBytes: leased + OFFER_BYTES };
    return [{ ...device, leasedBytes: leased, usedBytes: 0n, simulated: true }];
  }

  stats() {
    const { leases, sessions } = this;
    const counts = { leaseCount: leases.size, sessionCount: sessions.size };
    return { devices: this.devices(), state: FeederState.LENDING, ...counts };
  }

  lease({ leaseId }) {
    const lease = this.leases.get(leaseId);
    if (!lease) throw new GbError('LEASE_EXPIRED', `no lease ${leaseId}`);
    return lease;
  }

  handlers() {
    const bytesOf = (devices) => devices.reduce((sum, { bytes }) => sum + bytes, 0n);
    const own = {
      hello: async (request, { peer }) => ({
        version: { major: 1, minor: 0 },
        features: 0n,
        feederId: this.key.feederId,
        feederName: this.name,
        software: 'bench',
        sessionId: this.sessions.get(peer).sessionId,
        incarnation: this.incarnation,
        devices: this.devices(),
        leaseTtlMs: 30_000,
      }),
      ping: async ({ payload }) => ({ payload }),
      watchStats: (call) => this.watch(call),
      acquireLease: async ({ devices }) => {
        const lease = { leaseId: createId('lease'), fencingToken: 1n, bytes: bytesOf(devices) };
        this.leases.set(lease.leaseId, { ...lease, ranges: [] });
        return { lease, ttlMs: 30_000 };
      },
      resizeLease: async ({ lease, devices }) => {
        this.lease(lease).bytes = bytesOf(devices);
        return {};
      },
      renewLeases: async ({ leases }) => {
        this.renewals++;
        this.renewed += leases.length;
        return { leases: leases.map((lease) => ({ lease, status: 1, ttlMs: 30_000 })) };
      },
      releaseLease: async ({ lease }) => {
        this.leases.delete(lease.leaseId);
        return { freedBytes: 0n };
      },
      allocate: async ({ lease, range }) => {
        this.lease(lease).ranges.push(range);
        return { lockedBytes: 0n };
      },
      statLease: async ({ lease }) => {
        const { bytes, ranges } = this.lease(lease);
        return { limits: [{ device: RAM, bytes }], ranges };
      },
      openLane: async (request, { peer }) => this.probe(this.sessions.get(peer)),
      closeLane: async () => ({}),
    };
    const refuse = async () => {
      throw new GbError('UNSUPPORTED', 'a feeder of a bench');
    };
    const missing = FeederService.methods.filter(({ localName }) => !own[localName]);
    return { ...own, ...Object.fromEntries(missing.map(({ localName }) => [localName, refuse])) };
  }

  watch(call) {
    const timer = setInterval(() => call.write(this.stats()), call.request.intervalMs || 500);
    call.write(this.stats());
    return new Promise((resolve) => {
      call.on('cancelled', () => {
        clearInterval(timer);
        resolve();
      });
    });
  }

  async listen() {
    const server = new grpc.Server();
    const onBug = (error, method) => process.stderr.write(`${method}: ${String(error)}\n`);
    addService(server, FeederService, this.handlers(), { onBug });
    const listener = await listenPsk({
      server,
      keys: () => [this.key],
      binds: [{ host: '127.0.0.1', port: 0 }],
      log: createLogger({ name: 'bench', level: 'silent' }),
      clock: systemClock,
      onSession: (session) => this.sessions.set(session.peer, session),
      onSessionEnd: (session) => this.sessions.delete(session.peer),
    });
    return `127.0.0.1:${listener.addresses[0].port}`;
  }
}

let input = '';
for await (const chunk of process.stdin) {
  input += chunk;
  if (input.includes('\n\n')) break;
}
const keys = input
  .trim()
  .split('\n')
  .map((text) => parsePairingKey(text));
const first = Number(process.argv[2]);
const probe = await openProbes();
const feeders = keys.map((key, index) => new Feeder(key, first + index, probe));
const addresses = [];
for (const feeder of feeders) addresses.push(await feeder.listen());
process.stdout.write(`${JSON.stringify(addresses)}\n`);
// What was renewed so far, for who asks with SIGUSR2.
process.on('SIGUSR2', () => {
  const sum = (value) => feeders.reduce((total, feeder) => total + value(feeder), 0);
  const counts = { messages: sum((f) => f.renewals), renewed: sum((f) => f.renewed) };
  process.stdout.write(`${JSON.stringify({ ...counts, leases: sum((f) => f.leases.size) })}\n`);
});
setInterval(() => undefined, 1_000);
