// SPDX-License-Identifier: Apache-2.0
// Snapshots for tests of the view: three feeders in three states, two programs, a few events.
import { GIB } from '../../../proto/base/units.js';
import type { AttachmentJson } from '../../../tui/model/attachments.js';
import type { LinkJson } from '../../../tui/model/links.js';
import type { SnapshotJson, TierJson } from '../../../tui/model/snapshot.js';

export const START_UNIX_MS = 1_760_000_000_000;

export function tier(kind: TierJson['kind'], over: Partial<TierJson> = {}): TierJson {
  return {
    kind,
    name: kind,
    feederId: kind.startsWith('feeder') ? 'F-0000000000000001' : null,
    capacityBytes: 8 * GIB,
    grantedBytes: 0,
    usedBytes: 2 * GIB,
    readBytesPerSecond: 1e9,
    writeBytesPerSecond: 1e9,
    latencyMicros: 212,
    simulated: false,
    note: '',
    load:
      kind === 'local_vram'
        ? { percent: 97, temperatureCelsius: 61, powerMilliwatts: 317_900 }
        : null,
    ...over,
  };
}

export function link(name: string, over: Partial<LinkJson> = {}): LinkJson {
  return {
    feederId: `F-${Buffer.from(name.padEnd(8).slice(0, 8)).toString('hex')}`,
    feederName: name,
    address: '10.0.0.21:9740',
    state: 'ready',
    detail: '',
    rttMicros: 210,
    uploadBytesPerSecond: 1.1e9,
    downloadBytesPerSecond: 1.2e9,
    cipher: 'TLS_AES_128_GCM_SHA256',
    sessionId: 'S-0000000000000001',
    sentBytes: 0,
    receivedBytes: 0,
    errorCount: 0,
    lastSeenUnixMs: START_UNIX_MS,
    clockSkewMs: 2,
    leaseCount: 1,
    keyFingerprint: 'abcd',
    keyAddedUnixMs: null,
    laneCount: 0,
    laneCipher: null,
    laneKeyAgeMs: null,
    laneTraffic: {
      connectionCount: 0,
      sentBytes: 0,
      receivedBytes: 0,
      wireSentBytes: 0,
      wireReceivedBytes: 0,
      cachedBytes: 0,
      rttMicros: null,
      provider: null,
      brokenCount: 0,
    },
    laneDetail: '',
    callSentBytes: 0,
    callReceivedBytes: 0,
    paused: false,
    feederPauses: [],
    drain: null,
    devices: [
      {
        kind: 'ram',
        index: 0,
        name: 'RAM',
        uuid: null,
        capacityBytes: 24 * GIB,
        leasedBytes: 2 * GIB,
        usedBytes: GIB,
        lockedBytes: GIB,
        computeCapability: null,
        compute: false,
        simulated: false,
      },
    ],
    ...over,
  };
}

export function attachment(
  pid: number,
  command: string,
  over: Partial<AttachmentJson> = {},
): AttachmentJson {
  return {
    attachmentId: pid.toString(16).padStart(32, '0'),
    pid,
    command,
    deviceName: 'Test GPU',
    deviceUuid: 'GPU-00000000-0000-0000-0000-000000000001',
    vramUsedBytes: 4 * GIB,
    ramUsedBytes: 2 * GIB,
    feederVramUsedBytes: GIB,
    feederRamUsedBytes: GIB,
    vramPeakBytes: 4 * GIB,
    ramPeakBytes: 2 * GIB,
    feederVramPeakBytes: GIB,
    feederRamPeakBytes: GIB,
    vramBudgetBytes: null,
    vramLimitBytes: null,
    ramGrantedBytes: 2 * GIB,
    feederGrantedBytes: 2 * GIB,
    allocationCount: 10,
    allocatedBytes: 8 * GIB,
    launchCount: 100,
    copyCount: 5,
    fetchBytes: 0,
    evictBytes: 0,
    cleanDropBytes: 0,
    unaccountedLaunchCount: 0,
    refusedLaunchCount: 0,
    stallMicros: 0,
    nvmeUsedBytes: 0,
    nvmePeakBytes: 0,
    nvmeReadBytes: 0,
    nvmeWriteBytes: 0,
    stagedInBytes: 0,
    stageOutBytes: 0,
    stageCleanBytes: 0,
    remapCount: 0,
    switchCount: 0,
    switchAbandonedCount: 0,
    switchMicros: 0,
    frameBytes: 0,
    graphSplitCount: 0,
    staging: 'off',
    orderPercent: 0,
    phase: 'inference',
    stickyCudaError: 0,
    startedUnixMs: START_UNIX_MS - 60_000,
    connected: true,
    gated: true,
    dispatch: {
      on: false,
      hereCount: 100,
      dispatchedCount: 0,
      undispatched: {},
      owners: [],
      devices: [],
    },
    ...over,
  };
}

export function snapshot(over: Partial<SnapshotJson> = {}): SnapshotJson {
  return {
    schemaVersion: 1,
    software: 'greenboost 0.1.0',
    agentPid: 4242,
    startedUnixMs: START_UNIX_MS - 3_600_000,
    unixMs: START_UNIX_MS,
    epoch: 12,
    hostId: 'H-0000000000000001',
    hostName: 'ws-01',
    memoryAvailableBytes: 32 * GIB,
    memoryReserveBytes: 4 * GIB,
    probeBytes: 0,
    memoryPressurePercent: 0,
    tiers: [
      tier('local_vram', {
        name: 'Test GPU',
        capacityBytes: 24 * GIB,
        usedBytes: 23 * GIB,
        readBytesPerSecond: 900e9,
        latencyMicros: 0.5,
        simulated: true,
      }),
      tier('local_ram', {
        name: 'RAM',
        capacityBytes: 32 * GIB,
        usedBytes: 14 * GIB,
        readBytesPerSecond: 24e9,
        latencyMicros: 11,
      }),
      tier('feeder_ram', { name: 'anvil: RAM' }),
    ],
    links: [
      link('anvil'),
      link('forge', { state: 'draining', address: '10.0.0.22:9740' }),
      link('kiln', {
        state: 'stale',
        address: '10.0.0.23:9740',
        lastSeenUnixMs: START_UNIX_MS - 9_400,
        detail: 'silent',
        errorCount: 14,
      }),
    ],
    attachments: [
      attachment(48123, 'python serve.py --model big', { allocatedBytes: 38 * GIB }),
      attachment(51880, 'llama-server -m qwen.gguf', { allocatedBytes: 18 * GIB }),
    ],
    events: [
      {
        sequence: 1,
        unixMs: START_UNIX_MS - 5_000,
        severity: 'info',
        name: 'link_ready',
        subject: 'anvil',
        text: 'ready',
      },
      {
        sequence: 2,
        unixMs: START_UNIX_MS - 1_000,
        severity: 'warning',
        name: 'link_stale',
        subject: 'kiln',
        text: 'silent for 9 s',
      },
    ],
    ...over,
  };
}
