// SPDX-License-Identifier: Apache-2.0
// Room as one attachment may use it, and in which order: cheapest first, or, when its kernels run on feeders, by where
// they run best.
import type { DeviceKey } from '../links/feeder-client.js';
import {
  orderForDispatch,
  planDispatch,
  type DispatchOffer,
  type Reach,
} from '../placement/dispatch.js';
import { orderByCost, planPlacement, type PlacementPlan } from '../placement/policy.js';
import { RANGE_ALIGN } from '../shim/abi.js';
import { isVram, rankOf, type ComputeFacts, type FeederDirectory, type Hold } from './holds.js';
import { wholeGranules } from './rooms.js';

/** VRAM of a feeder that runs kernels which is not granted to the program: what its kernels name besides has room there
 *  as copies. This part of it, and at most so much. */
const COPIES_PART = 8;
const COPIES_BYTES_MAX = 2 ** 30;

export class Offers {
  constructor(
    private readonly directory: FeederDirectory,
    /** The program's kernels run where its ranges are. */
    private readonly dispatch: () => boolean,
  ) {}

  /** Free bytes of leases, device by device; `key` is the index in `held` and the device. */
  ofLeases(held: readonly Hold[], wanted: (hold: Hold) => boolean): DispatchOffer[] {
    return held.flatMap((hold, index) => {
      if (!wanted(hold)) return [];
      const compute = this.directory.computeOf(hold.feederId);
      return [...hold.devices].map(([deviceKey, { limitBytes, usedBytes }]) => ({
        key: `${index}/${deviceKey}`,
        freeBytes: limitBytes - usedBytes,
        rank: rankOf(deviceKey),
        feederId: hold.feederId,
        lane: hold.lane,
        reach: reachOf(deviceKey, compute),
        ...this.directory.costOf(hold.feederId),
      }));
    });
  }

  /** What feeders have free beyond all leases; `key` is the feeder and the device. With dispatch, where kernels run,
   *  only what they can use. */
  ofFeeders(held: readonly Hold[], refused: ReadonlySet<string>): DispatchOffer[] {
    const dispatch = this.dispatch();
    return this.directory
      .usable()
      .filter(({ feederId }) => !refused.has(feederId))
      .flatMap(({ feederId, cost, devices }) => {
        const compute = this.directory.computeOf(feederId);
        const lane = held.find((hold) => hold.feederId === feederId && hold.state === 'held')?.lane;
        return devices
          .filter(({ key }) => !dispatch || !compute || compute.deviceKeys.includes(key))
          .map(({ key, freeBytes, capacityBytes }) => ({
            key: `${feederId}/${key}`,
            freeBytes:
              dispatch && compute && isVram(key) ? freeBytes - keptFor(capacityBytes) : freeBytes,
            rank: rankOf(key),
            feederId,
            lane,
            reach: reachOf(key, compute),
            ...cost,
          }));
      });
  }

  /** Bytes that kernels on the lease's feeder can use there and that nothing uses: leased, or free beyond. On its GPU,
   *  if it lends one. */
  roomOn(held: readonly Hold[], hold: Hold): number {
    const beyond = this.ofFeeders(held, new Set()).filter(
      ({ feederId }) => feederId === hold.feederId,
    );
    const all = [...this.ofLeases([hold], () => true), ...beyond];
    const reach = all.some((offer) => offer.reach === 'gpu') ? 'gpu' : 'host';
    return all
      .filter((offer) => offer.reach === reach)
      .reduce((sum, { freeBytes }) => sum + wholeGranules(freeBytes), 0);
  }

  /** Most wanted first; with dispatch those of `lane` (0: none) before all others. */
  order(offers: readonly DispatchOffer[], lane = 0): DispatchOffer[] {
    return this.dispatch() ? orderForDispatch(offers, lane) : orderByCost(offers);
  }

  /** pre: `bytes` is a positive multiple of RANGE_ALIGN. */
  plan(offers: readonly DispatchOffer[], bytes: number, lane = 0): PlacementPlan {
    return this.dispatch()
      ? planDispatch(offers, bytes, RANGE_ALIGN, lane)
      : planPlacement(offers, bytes, RANGE_ALIGN);
  }
}

function keptFor(capacityBytes: number): number {
  const part = Math.min(COPIES_BYTES_MAX, capacityBytes / COPIES_PART);
  return Math.ceil(part / RANGE_ALIGN) * RANGE_ALIGN;
}

function reachOf(key: DeviceKey, compute: ComputeFacts | undefined): Reach {
  if (!compute?.deviceKeys.includes(key)) return 'none';
  return isVram(key) ? 'gpu' : 'host';
}
