// SPDX-License-Identifier: Apache-2.0
// A peer from beyond the LAN. The address is made up, so this file runs itself again in a network
// namespace of its own.
import { describe, expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { openClient, openFrontDoor, knock } from './harness.js';

const PUBLIC_ADDRESS = '198.51.100.7'; // TEST-NET-2, RFC 5737
const INSIDE = 'GB_TEST_IN_NAMESPACE';

if (process.env[INSIDE] === undefined) {
  test('a peer from beyond the LAN is closed without a byte, unless --allow-wan', () => {
    const root = fileURLToPath(new URL('../../..', import.meta.url));
    const script = `ip link set lo up && ip address add ${PUBLIC_ADDRESS}/32 dev lo && exec "$@"`;
    const jest = ['node_modules/.bin/jest', fileURLToPath(import.meta.url)];
    const { status, stderr } = spawnSync(
      'unshare',
      ['-rn', 'sh', '-c', script, 'sh', process.execPath, ...jest],
      {
        cwd: root,
        env: { ...process.env, [INSIDE]: '1', NODE_OPTIONS: '--experimental-vm-modules' },
        encoding: 'utf8',
        timeout: 60_000,
      },
    );
    expect({ status, stderr }).toMatchObject({
      status: 0,
      stderr: expect.stringContaining('2 passed, 2 total'),
    });
  });
} else {
  describe(`in a namespace with ${PUBLIC_ADDRESS}`, () => {
    test('the peer is closed and counted', async () => {
      const door = await openFrontDoor({ host: PUBLIC_ADDRESS });
      const client = openClient(door, { key: door.key });
      await expect(client.echo('x')).rejects.toBeDefined();
      client.close();
      expect(await knock(door, [Buffer.of(22)])).toEqual({
        received: Buffer.alloc(0),
        closed: true,
      });
      expect(door.failures).toEqual(Array(2).fill({ address: PUBLIC_ADDRESS, reason: 'not_lan' }));
      expect(door.opened).toEqual([]);
      await door.stop();
    });

    test('the peer is served with allowWan', async () => {
      const door = await openFrontDoor({ host: PUBLIC_ADDRESS, allowWan: true });
      const client = openClient(door, { key: door.key });
      expect(await client.echo('x')).toMatch(/\|x$/);
      client.close();
      await door.stop();
    });
  });
}
