// SPDX-License-Identifier: Apache-2.0
// An agent, feeders and scripted programs, anew for each test of a file and gone after it.
import { afterEach, beforeEach } from '@jest/globals';
import type { ConnectResponse } from '../../../proto/gen/greenboost/v1/control_pb.js';
import { PATIENCE_MS } from '../../patience.js';
import { startTestFeeder, type TestFeeder } from './feeders.js';
import { TestHost } from './harness.js';
import { ShimPeer } from './shim-peer.js';

class TestCluster {
  host!: TestHost;
  feeders: TestFeeder[] = [];
  private peers: ShimPeer[] = [];

  async start(): Promise<void> {
    this.host = new TestHost();
    this.feeders = [];
    this.peers = [];
    await this.host.start();
  }

  /** A feeder in this process. */
  async feeder(name: string, ramBytes: number, port = 0): Promise<TestFeeder> {
    const started = await startTestFeeder(this.host, name, ramBytes, port);
    this.feeders.push(started);
    return started;
  }

  connect(to: Pick<TestFeeder, 'address' | 'feederId'>): Promise<ConnectResponse> {
    const { address, feederId } = to;
    const request = { address, feederId, timeoutMs: PATIENCE_MS };
    return this.host.client().connect(request, { timeoutMs: 2 * PATIENCE_MS });
  }

  /** A feeder that the agent has a link to. */
  async connected(name: string, ramBytes: number): Promise<TestFeeder> {
    const started = await this.feeder(name, ramBytes);
    await this.connect(started);
    return started;
  }

  /** A program, scripted. */
  async attach(options: Parameters<typeof ShimPeer.attach>[1] = {}): Promise<ShimPeer> {
    const peer = await ShimPeer.attach(this.host.shimSocket, options);
    this.peers.push(peer);
    return peer;
  }

  async stop(): Promise<void> {
    for (const peer of this.peers) await peer.end();
    await this.host.stopAgent();
    for (const { feeder } of this.feeders) await feeder.stop();
    await this.host.stop();
  }
}

/** One cluster, started anew for each test of the file that calls it. */
export function useCluster(): TestCluster {
  const cluster = new TestCluster();
  beforeEach(() => cluster.start());
  afterEach(() => cluster.stop());
  return cluster;
}
