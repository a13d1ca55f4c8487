// SPDX-License-Identifier: Apache-2.0
// The test network itself: a cut link is really cut, a restored one works again; by cable and by
// delay link.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { createNetwork, type Namespace, type Network } from './namespaces.js';

function reaches(from: Namespace, address: string): boolean {
  const script = `exec 3<>/dev/tcp/${address}/9`;
  const [command, args] = from.wrap(['timeout', '1', 'bash', '-c', script]);
  try {
    execFileSync(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    return true;
  } catch (error) {
    // A refused connection has reached the machine; no route or a timeout has not.
    return String((error as { stderr: Buffer }).stderr).includes('refused');
  }
}

const LINE = { rate: '100Mbit', delay: '1ms' };

describe.each([
  ['cables', undefined],
  ['delay links', [LINE, LINE]],
])('joined by %s', (_, lines) => {
  let network: Network;

  beforeAll(async () => {
    network = await createNetwork(2, lines);
  });
  afterAll(() => network.close());

  test('feeders are reached, cut and reached again one by one', async () => {
    const [first, second] = network.feeders.map((feeder) => feeder.address) as [string, string];
    const seen = (): boolean[] => [first, second].map((address) => reaches(network.host, address));
    expect(seen()).toEqual([true, true]);
    if (lines) await network.lines[0]!.cut();
    else network.setLink(0, false);
    expect(seen()).toEqual([false, true]);
    if (lines) await network.lines[0]!.join();
    else network.setLink(0, true);
    expect(seen()).toEqual([true, true]);
  });

  test('feeders reach each other, and a namespace knows its processes', () => {
    const [first, second] = network.feeders as [Namespace, Namespace];
    expect(reaches(first, second.address)).toBe(true);
    expect(first.pids()).toEqual([]);
  });
});
