// SPDX-License-Identifier: Apache-2.0
// The test network itself: a cut link is really cut, a restored one works again.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { createNetwork, type Network } from './namespaces.js';

let network: Network;

beforeAll(async () => {
  network = await createNetwork(2);
});
afterAll(() => network.close());

function reaches(address: string): boolean {
  const script = `exec 3<>/dev/tcp/${address}/9`;
  const [command, args] = network.host.wrap(['timeout', '1', 'bash', '-c', script]);
  try {
    execFileSync(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    return true;
  } catch (error) {
    // A refused connection has reached the machine; no route or a timeout has not.
    return String((error as { stderr: Buffer }).stderr).includes('refused');
  }
}

test('feeders are reached, cut and reached again one by one', () => {
  const [first, second] = network.feeders.map((feeder) => feeder.address) as [string, string];
  expect([reaches(first), reaches(second)]).toEqual([true, true]);
  network.setLink(0, false);
  expect([reaches(first), reaches(second)]).toEqual([false, true]);
  network.setLink(0, true);
  expect(reaches(first)).toBe(true);
});
