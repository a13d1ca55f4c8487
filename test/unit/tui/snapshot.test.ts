// SPDX-License-Identifier: Apache-2.0
import { create } from '@bufbuild/protobuf';
import { describe, expect, test } from '@jest/globals';
import {
  FeedStatusSchema,
  LinkState,
  SnapshotSchema,
  TierKind,
} from '../../../proto/gen/greenboost/v1/control_pb.js';
import { DeviceKind, FeederState } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { feedStatusJson } from '../../../tui/model/feed-status.js';
import { snapshotJson } from '../../../tui/model/snapshot.js';

const WIRE = create(SnapshotSchema, {
  software: 'greenboost 0.1.0',
  agentPid: 7,
  unixMs: 1_760_000_000_000n,
  epoch: 3n,
  memoryPressureSomeAvg10: -1,
  tiers: [{ kind: TierKind.FEEDER_RAM, feederId: 'F-1', capacityBytes: 5n << 40n, usedBytes: 1n }],
  links: [
    {
      feederId: 'F-1',
      state: LinkState.DRAINING,
      sentBytes: 9n,
      devices: [
        { id: { kind: DeviceKind.GPU, index: 2 }, capacityBytes: 4n, computeCapability: 90 },
      ],
    },
  ],
  attachments: [{ pid: 5, feederRamUsedBytes: 12n, vramBudgetBytes: 0n }],
  recentEvents: [{ sequence: 1n, severity: 2, name: 'x' }],
});

describe('snapshotJson', () => {
  test('is plain JSON: numbers as numbers, words for states, null for what is not known', () => {
    const json = snapshotJson(WIRE);
    expect(JSON.parse(JSON.stringify(json))).toEqual(json);
    expect(json.tiers[0]).toMatchObject({
      kind: 'feeder_ram',
      capacityBytes: 5 * 2 ** 40,
      readBytesPerSecond: null,
    });
    expect(json.links[0]).toMatchObject({
      state: 'draining',
      sentBytes: 9,
      rttMicros: null,
      lastSeenUnixMs: null,
    });
    expect(json.links[0]?.devices[0]).toMatchObject({
      kind: 'gpu',
      index: 2,
      computeCapability: 90,
      uuid: null,
    });
    expect(json.attachments[0]).toMatchObject({ feederRamUsedBytes: 12, vramBudgetBytes: null });
    expect(json.events[0]?.severity).toBe('error');
    expect(json.memoryPressurePercent).toBeNull();
  });

  test('the top-level keys are those of schema version 1', () => {
    expect(Object.keys(snapshotJson(WIRE)).sort()).toEqual([
      'agentPid',
      'attachments',
      'epoch',
      'events',
      'hostId',
      'hostName',
      'links',
      'memoryAvailableBytes',
      'memoryPressurePercent',
      'memoryReserveBytes',
      'probeBytes',
      'schemaVersion',
      'software',
      'startedUnixMs',
      'tiers',
      'unixMs',
    ]);
    expect(snapshotJson(WIRE).schemaVersion).toBe(1);
  });

  test('a counter above 2^53 is refused instead of rounded', () => {
    const broken = create(SnapshotSchema, { ...WIRE, memoryAvailableBytes: 1n << 54n });
    expect(() => snapshotJson(broken)).toThrow('PROTOCOL_VIOLATION');
  });
});

test('feedStatusJson flattens the counters and keeps leases exact', () => {
  const json = feedStatusJson(
    create(FeedStatusSchema, {
      pid: 3,
      feederName: 'anvil',
      stats: { state: FeederState.LENDING, readBytes: 4n, devices: [{ usedBytes: 6n }] },
      leases: [{ leaseId: 'L-1', usedBytes: 6n, ttlRemainingMs: 30_000n, adopted: true }],
      lanePort: 9741,
      lanes: [{ ticketId: 'ab', leaseId: 'L-1', readBytes: 7n, cipher: 'AES-256-GCM' }, {}],
    }),
  );
  expect(json).toMatchObject({ lanePort: 9741, cacheDir: null, cacheBudgetBytes: 0 });
  expect(json.lanes.map(({ leaseId, peer, keyAgeMs }) => [leaseId, peer, keyAgeMs])).toEqual([
    ['L-1', null, null],
    [null, null, null],
  ]);
  expect(json.lanes[0]).toMatchObject({ readBytes: 7, cipher: 'AES-256-GCM', provider: null });
  expect(json).toMatchObject({ state: 'lending', readBytes: 4, feederName: 'anvil' });
  expect(json.leases).toEqual([
    {
      leaseId: 'L-1',
      hostName: '',
      attachmentId: '',
      grantedBytes: 0,
      usedBytes: 6,
      ttlRemainingMs: 30_000,
      adopted: true,
      readBytes: 0,
      writeBytes: 0,
    },
  ]);
});
