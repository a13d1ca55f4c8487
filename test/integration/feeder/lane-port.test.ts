// SPDX-License-Identifier: Apache-2.0
// Where lanes come in: one port for all addresses, chosen, told, and refused in words; and a feeder
// that comes back is another one for old tickets.
import { afterEach, expect, test } from '@jest/globals';
import { existsSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { localAddresses } from '../../../security/bind.js';
import { createId } from '../../../proto/base/ids.js';
import { createLogger } from '../../../proto/base/log.js';
import { factLines, startFeeder } from '../../../feeder/main.js';
import { LaneClient } from '../../../driver/lane/client.js';
import { codeOf, executorsOf, hello, MIB, openFeeder, openTicket, until } from './harness.js';
import type { TestFeeder } from './harness.js';

const open: TestFeeder[] = [];
const start = async (...args: Parameters<typeof openFeeder>): Promise<TestFeeder> => {
  const feeder = await openFeeder(...args);
  open.push(feeder);
  return feeder;
};

afterEach(async () => {
  for (const feeder of open.splice(0)) await feeder.stop();
  expect(executorsOf(process.pid)).toEqual([]);
});

/** Two ports that follow each other, free a moment ago. */
async function freePorts(): Promise<[number, number]> {
  for (;;) {
    const first = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => first.once('listening', resolve));
    const { port } = first.address() as AddressInfo;
    const second = createServer().listen(port + 1, '127.0.0.1');
    const isFree = await new Promise<boolean>((resolve) => {
      second.once('listening', () => resolve(true)).once('error', () => resolve(false));
    });
    await new Promise((resolve) => first.close(resolve));
    if (isFree) await new Promise((resolve) => second.close(resolve));
    if (isFree) return [port, port + 1];
  }
}

test('it is the next port unless told otherwise, and everybody is told', async () => {
  const [port, next] = await freePorts();
  const feeder = await start({ port });
  const told = await feeder.connectSilently().hello(hello(createId('host')));
  expect(told.lanePort).toBe(next);
  expect((await feeder.control().getFeedStatus({})).lanePort).toBe(next);
  expect(factLines(feeder.feeder.facts).join('\n')).toContain(`lanes on port ${next}`);
});

test('an option names another, a variable too, and port 0 takes any', async () => {
  const [port, chosen] = await freePorts();
  const feeder = await start({ port: 0, lanePort: chosen });
  expect(feeder.feeder.facts.lanePort).toBe(chosen);
  await feeder.stop();
  process.env['GREENBOOST_LANE_PORT'] = String(port);
  try {
    expect((await start({ port: 0 })).feeder.facts.lanePort).toBe(port);
  } finally {
    delete process.env['GREENBOOST_LANE_PORT'];
  }
  const any = await start({ port: 0 });
  expect(any.feeder.facts.lanePort).toBeGreaterThan(0);
});

test('one that is taken is refused with the option to use, and nothing is left behind', async () => {
  const feeder = await start();
  const { lanePort } = feeder.feeder.facts;
  const log = createLogger({ name: 'feeder', level: 'silent' });
  const base = { ramBytes: 2 * MIB, bind: ['127.0.0.1'], port: 0, cacheBytes: 0 };
  const socket = `${feeder.folder}/second.sock`;
  const options = {
    ...base,
    configDir: `${feeder.folder}/second`,
    stateDir: `${feeder.folder}/second-state`,
    controlSocket: socket,
  };
  await expect(startFeeder({ ...options, lanePort }, { log })).rejects.toMatchObject({
    code: 'ALREADY_EXISTS',
    rawMessage: expect.stringMatching(new RegExp(`port ${lanePort}.*--lane-port`)) as unknown,
  });
  expect(existsSync(socket)).toBe(false);
  for (const wrong of [{ port: 65_535 }, { port: 9740, lanePort: 9740 }]) {
    expect(await codeOf(startFeeder({ ...options, ...wrong }, { log }))).toBe('INVALID_ARGUMENT');
  }
});

test('lanes open at every address the feeder listens on, IPv6 too', async () => {
  const hosts = localAddresses().filter(({ interfaceName }) => interfaceName === 'lo');
  const bind = hosts.map(({ address }) => address);
  expect(bind).toContain('127.0.0.1');
  const feeder = await start({ bind });
  const host = await feeder.connect();
  for (const address of bind) {
    const lane = await openTicket({ ...(await host.ticket(undefined)), address });
    await lane.write(0, 0, Buffer.alloc(MIB, 1));
    await lane.close();
    await until('the probe is over', () => executorsOf(process.pid).length === 0);
  }
});

test('a feeder that comes back knows neither old lanes nor old tickets nor old leases', async () => {
  const [port, lanePort] = await freePorts();
  const first = await start({ port });
  const hostId = createId('host');
  const host = await first.connect(hostId);
  const lease = await host.lease({ ram: 4 * MIB });
  await host.allocate(lease, 0, 4 * MIB);
  const unused = await host.ticket(lease);
  const ticket = await host.ticket(lease);
  const { address } = ticket;
  const lane = await LaneClient.open({ address, port: lanePort, ticket });
  await lane.write(0, 0, Buffer.alloc(MIB, 7));
  await first.feeder.stop();
  await until('the lane has ended', () => lane.state !== 'OK');
  const options = { port, configDir: `${first.folder}/config`, stateDir: `${first.folder}/state` };
  const second = await start(options);
  expect(second.feeder.feederId).toBe(first.feeder.feederId);
  expect(await codeOf(openTicket(unused))).toBe('PERMISSION_DENIED');
  expect(await codeOf(openTicket(ticket))).toBe('PERMISSION_DENIED');
  const again = await second.connect(hostId);
  expect(await codeOf(again.ticket(lease))).toBe('LEASE_EXPIRED');
  expect(await codeOf(lane.read(0, 0, Buffer.alloc(4)))).toMatch(/UNREACHABLE|EXPIRED/);
  await lane.close();
});
