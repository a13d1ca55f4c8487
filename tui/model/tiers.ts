// SPDX-License-Identifier: Apache-2.0
// The tiers as people see them: those of the agent, and the drives that programs brought with `run --nvme`.
import type { SnapshotJson, TierJson } from './snapshot.js';

/** Identity of a row; names of devices are only unique within their feeder. */
export function tierIdentity(tier: TierJson): string {
  return `${tier.kind} ${tier.feederId ?? ''} ${tier.name}`;
}

function nvmeTier({ attachments }: SnapshotJson): TierJson[] {
  const users = attachments.filter(({ nvmeUsedBytes, nvmePeakBytes }) =>
    Boolean(nvmeUsedBytes || nvmePeakBytes),
  );
  if (users.length === 0) return [];
  const usedBytes = users.reduce((sum, from) => sum + from.nvmeUsedBytes, 0);
  const tier: TierJson = {
    kind: 'local_nvme',
    name: 'NVMe',
    feederId: null,
    capacityBytes: 0,
    grantedBytes: usedBytes,
    usedBytes,
    readBytesPerSecond: null,
    writeBytesPerSecond: null,
    latencyMicros: null,
    simulated: false,
    note: 'files of programs; their size is in `run --nvme`',
    load: null,
  };
  return [tier];
}

/** All tiers of a snapshot; a capacity of 0 is not known. */
export function tiersOf(snapshot: SnapshotJson): TierJson[] {
  return [...snapshot.tiers, ...nvmeTier(snapshot)];
}

const KIND_ORDER: readonly TierJson['kind'][] = [
  'local_vram',
  'local_ram',
  'feeder_vram',
  'feeder_ram',
  'local_nvme',
  'unknown',
];

/** Fastest measured tier first; what was not measured keeps the order of its kinds. */
export function sortedTiers(tiers: readonly TierJson[]): TierJson[] {
  return [...tiers].sort(
    (a, b) =>
      (b.readBytesPerSecond ?? 0) - (a.readBytesPerSecond ?? 0) ||
      KIND_ORDER.indexOf(a.kind) - KIND_ORDER.indexOf(b.kind) ||
      a.name.localeCompare(b.name),
  );
}
