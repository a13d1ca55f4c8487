// SPDX-License-Identifier: Apache-2.0
// Small pure things about room on leases.
import type { DeviceKey } from '../links/feeder-client.js';
import { orderByCost, type PlacementPart, type TierOffer } from '../placement/policy.js';
import { RANGE_ALIGN } from '../shim/abi.js';
import type { Hold, Reservation, Room } from './holds.js';

/** Takes up to `bytes` from a lease's limits, where nothing uses them. What an earlier agent forgot
 *  is in no range of ours and goes first. */
export function giveUp(hold: Hold, bytes: number): number {
  let left = bytes;
  for (const device of hold.devices.values()) {
    const isForgotten = hold.leaseId === '';
    const freeBytes = isForgotten ? device.limitBytes : device.limitBytes - device.usedBytes;
    const taken = Math.min(freeBytes, left);
    device.limitBytes -= taken;
    if (isForgotten) device.usedBytes -= taken;
    left -= taken;
  }
  return bytes - left;
}

/** Both lists side by side, cut wherever one of them is. pre: equal sums. */
export function zipRooms(near: readonly Reservation[], far: readonly Reservation[]): Room[] {
  const rooms: Room[] = [];
  const [a, b] = [near.map((part) => ({ ...part })), far.map((part) => ({ ...part }))];
  while (a[0] && b[0]) {
    const bytes = Math.min(a[0].bytes, b[0].bytes);
    rooms.push({ bytes, places: [a[0], b[0]].map((part) => ({ ...part, bytes })) });
    for (const list of [a, b]) {
      const head = list[0] as { bytes: number };
      head.bytes -= bytes;
      if (head.bytes === 0) list.shift();
    }
  }
  return rooms;
}

/** Sets `bytes` aside that one of the lease's devices has free, the first of `deviceKeys` that can. */
export function takeFree(
  hold: Hold,
  deviceKeys: readonly DeviceKey[],
  bytes: number,
): Reservation | undefined {
  for (const deviceKey of deviceKeys) {
    const device = hold.devices.get(deviceKey);
    if (hold.state !== 'held' || !device || device.limitBytes - device.usedBytes < bytes) continue;
    device.usedBytes += bytes;
    return { hold, deviceKey, bytes };
  }
  return undefined;
}

/** The bytes of whole granules in `bytes`. */
export function wholeGranules(bytes: number): number {
  return Math.floor(Math.max(0, bytes) / RANGE_ALIGN) * RANGE_ALIGN;
}

/** Parts with keys `feeder/device`, by feeder. */
export function byFeeder(
  parts: readonly { key: string; bytes: number }[],
): Map<string, Map<DeviceKey, number>> {
  const result = new Map<string, Map<DeviceKey, number>>();
  for (const { key, bytes } of parts) {
    const [feederId, device] = key.split('/') as [string, string];
    const entry = result.get(feederId) ?? new Map<DeviceKey, number>();
    entry.set(device, bytes);
    result.set(feederId, entry);
  }
  return result;
}

/** Which feeder gives how much on which device, cheapest first; undefined when there is not enough.
 *  Keys are `feeder/device`; `roomOf`: what one feeder may give at most. */
export function planGrowth(
  offers: readonly TierOffer[],
  bytes: number,
  roomOf?: (feederId: string) => number,
): PlacementPart[] | undefined {
  const parts: PlacementPart[] = [];
  const rooms = new Map<string, number>();
  let missing = bytes;
  for (const { key, freeBytes } of orderByCost(offers)) {
    const feederId = key.slice(0, key.indexOf('/'));
    const room = rooms.get(feederId) ?? roomOf?.(feederId) ?? Number.MAX_SAFE_INTEGER;
    const taken = Math.min(wholeGranules(freeBytes), Math.max(0, room), missing);
    rooms.set(feederId, room - taken);
    missing -= taken;
    if (taken > 0) parts.push({ key, bytes: taken });
  }
  return missing === 0 ? parts : undefined;
}
