// SPDX-License-Identifier: Apache-2.0
// What an action would do now: how many bytes would go where, whose, how long at the measured rates, and why it would
// be refused. Reads the same accounts as the action; changes nothing, and holds until the epoch moves.
import type { MessageInitShape } from '@bufbuild/protobuf';
import { assert } from '../../proto/base/assert.js';
import { GbError } from '../../proto/base/errors.js';
import { PLAN_PROGRAMS_MAX } from '../../proto/base/limits.js';
import { formatBytes } from '../../proto/base/units.js';
import { Action, type PlanResponseSchema } from '../../proto/gen/greenboost/v1/control_pb.js';
import { DeviceKind } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import type { Attachment } from '../attachments/attachment.js';
import { isOn } from '../attachments/copies.js';
import { rankOf, type FeederView } from '../attachments/holds.js';
import type { AttachmentRegistry } from '../attachments/registry.js';
import type { Ledger } from '../ledger.js';
import { deviceFromKey, type DeviceKey } from '../links/feeder-client.js';
import type { Link } from '../links/link.js';
import type { LinkManager } from '../links/manager.js';
import { planPlacement } from '../placement/policy.js';
import type { Extent } from '../placement/residency.js';
import { AbiTier } from '../shim/abi.js';

type PlanInit = MessageInitShape<typeof PlanResponseSchema>;

export interface PlanSources {
  readonly links: LinkManager;
  readonly registry: AttachmentRegistry;
  readonly ledger: Ledger;
}

/** Free room of feeders as a plan takes it, device by device. */
class RoomLeft {
  private readonly offers: {
    readonly key: string;
    readonly view: FeederView;
    readonly deviceKey: DeviceKey;
    freeBytes: number;
    takenBytes: number;
  }[];

  constructor(views: readonly FeederView[]) {
    this.offers = views.flatMap((view) =>
      view.devices.map(({ key, freeBytes }) => ({
        key: `${view.feederId} ${key}`,
        view,
        deviceKey: key,
        freeBytes,
        takenBytes: 0,
      })),
    );
  }

  /** Finds room for one extent beside feeders that have it already. Returns what found none. */
  take(extent: Extent): number {
    const has = new Set(extent.copies.map(({ feederId }) => feederId));
    const open = this.offers.filter(({ view }) => !has.has(view.feederId));
    const plan = planPlacement(
      open.map(({ key, view, deviceKey, freeBytes }) => ({
        key,
        freeBytes,
        rank: rankOf(deviceKey),
        ...view.cost,
      })),
      extent.length,
      1,
    );
    // An extent moves whole or stays: a part of it elsewhere helps nobody.
    if (plan.missingBytes > 0) return extent.length;
    for (const { key, bytes } of plan.parts) {
      const offer = open.find((candidate) => candidate.key === key);
      assert(offer !== undefined, 'a part lies on an offer');
      offer.freeBytes -= bytes;
      offer.takenBytes += bytes;
    }
    return 0;
  }

  get moves(): NonNullable<PlanInit['moves']> {
    return this.offers
      .filter(({ takenBytes }) => takenBytes > 0)
      .map(({ view, deviceKey, takenBytes }) => ({
        feederId: view.feederId,
        feederName: view.name,
        device: deviceFromKey(deviceKey),
        bytes: BigInt(takenBytes),
      }));
  }

  /** Of feeders that get something; 0: not measured. */
  get rates(): number[] {
    return this.offers
      .filter(({ takenBytes }) => takenBytes > 0)
      .map(({ view }) => view.cost.readBytesPerSecond);
  }
}

interface OfOneProgram {
  readonly attachment: Attachment;
  readonly extents: readonly Extent[];
  readonly bytes: number;
  /** Why its bytes cannot leave; empty: they can. */
  readonly stays: string;
}

/** @throws GbError NOT_FOUND, INVALID_ARGUMENT. */
export function plan(
  request: { action: Action; feeder: string; pid: number; bytes: bigint },
  sources: PlanSources,
): PlanInit {
  const { action } = request;
  if (action === Action.EVICT) return planEviction(request, sources);
  if (action === Action.UNSPECIFIED) throw new GbError('INVALID_ARGUMENT', 'plan which action?');
  const link = sources.links.named(request.feeder);
  const moves = action === Action.DRAIN || action === Action.DISCONNECT;
  const held = holders(link, sources);
  const common = {
    action,
    epoch: sources.links.epoch,
    feederId: link.feederId,
    feederName: link.name,
    leaseCount: sources.registry.leasesOn(link.feederId).length,
    programs: affected(held),
  };
  return moves
    ? { ...common, ...planEmptying(action, link, held, sources) }
    : { ...common, etaMs: 0n };
}

/** Programs with bytes on a feeder, most bytes first. */
function holders(link: Link, { registry, links }: PlanSources): OfOneProgram[] {
  return registry.all
    .map((attachment) => {
      const { residency } = attachment.copies;
      const extents = residency.all.filter((extent) => isOn(extent, link.feederId));
      const runs = attachment.facts.dispatch && links.computeOf(link.feederId) !== undefined;
      return {
        attachment,
        extents,
        bytes: attachment.bytesOn(link.feederId),
        stays: runs ? 'runs kernels there (--remote): its bytes stay until it ends' : '',
      };
    })
    .filter(({ bytes }) => bytes > 0)
    .sort((a, b) => b.bytes - a.bytes);
}

function affected(held: readonly OfOneProgram[]): NonNullable<PlanInit['programs']> {
  return held.slice(0, PLAN_PROGRAMS_MAX).map(({ attachment, bytes, stays }) => ({
    pid: attachment.facts.identity.pid,
    command: attachment.facts.command,
    bytes: BigInt(bytes),
    note: stays,
  }));
}

function sumOf(extents: readonly Extent[]): number {
  return extents.reduce((sum, { length }) => sum + length, 0);
}

function planEmptying(
  action: Action,
  link: Link,
  held: readonly OfOneProgram[],
  { links }: PlanSources,
): PlanInit {
  const away = link.state !== 'ready';
  const room = new RoomLeft(links.usable().filter(({ feederId }) => feederId !== link.feederId));
  const staying = held.flatMap(({ extents, stays }) =>
    extents.filter((extent) => away || stays !== '' || room.take(extent) > 0),
  );
  const extents = held.flatMap((program) => program.extents);
  const missingBytes = sumOf(staying);
  const moveBytes = sumOf(extents) - missingBytes;
  const lost = staying.filter(
    ({ copies }) => !copies.some((copy) => copy.feederId !== link.feederId && !copy.lost),
  );
  const rates = [link.measurement?.downloadBytesPerSecond ?? 0, ...room.rates];
  const bytesPerSecond = moveBytes > 0 && rates.every((rate) => rate > 0) ? Math.min(...rates) : 0;
  return {
    moveBytes: BigInt(moveBytes),
    missingBytes: BigInt(missingBytes),
    lostBytes: BigInt(action === Action.DISCONNECT ? sumOf(lost) : 0),
    rangeCount: extents.length,
    moves: room.moves,
    bytesPerSecond,
    etaMs: etaOf(moveBytes, bytesPerSecond),
    refusal: emptyingRefusal(action, link, held, missingBytes),
  };
}

function emptyingRefusal(
  action: Action,
  link: Link,
  held: readonly OfOneProgram[],
  missingBytes: number,
): string {
  if (link.state !== 'ready') {
    if (action === Action.DISCONNECT && held.length === 0) return '';
    const why = held.length > 0 ? ' and holds bytes of running programs' : '';
    return `feeder ${link.name} is ${link.state}${why}`;
  }
  const bound = held.find(({ stays }) => stays !== '');
  if (bound) return `pid ${bound.attachment.facts.identity.pid} ${bound.stays}`;
  return missingBytes > 0 ? `other feeders have no room for ${formatBytes(missingBytes)}` : '';
}

function etaOf(bytes: number, bytesPerSecond: number): bigint {
  if (bytes === 0) return 0n;
  return bytesPerSecond > 0 ? BigInt(Math.round((bytes * 1000) / bytesPerSecond)) : -1n;
}

/** Bytes of a program in VRAM, and how many of them an eviction is about; 0: all. */
export function evictable(
  attachment: Attachment,
  bytes: number,
): { vramBytes: number; wantedBytes: number } {
  const vramBytes = Number(attachment.report?.used_bytes[AbiTier.T1] ?? 0n);
  return { vramBytes, wantedBytes: Math.min(bytes === 0 ? vramBytes : bytes, vramBytes) };
}

/** The running program of that pid. @throws GbError NOT_FOUND. */
export function programOf(pid: number, registry: AttachmentRegistry): Attachment {
  const found = registry.all.find(({ facts }) => facts.identity.pid === pid);
  if (found) return found;
  throw new GbError('NOT_FOUND', `no program with pid ${pid} is attached`, {
    details: { hint: 'greenboost status lists those that are' },
  });
}

/** RAM that a program could fill more: granted and not used, and what would be granted. */
export function ramRoom(attachment: Attachment, ledger: Ledger): number {
  const { facts, id, report } = attachment;
  const couldHold = ledger.heldBytes(id) + ledger.headroomBytes;
  const used = Number(report?.used_bytes[AbiTier.T2] ?? 0n);
  return Math.max(0, Math.min(facts.ramBudgetBytes ?? couldHold, couldHold) - used);
}

function planEviction(
  { action, pid, bytes }: { action: Action; pid: number; bytes: bigint },
  { registry, ledger, links }: PlanSources,
): PlanInit {
  const attachment = programOf(pid, registry);
  const { vramBytes, wantedBytes } = evictable(attachment, Number(bytes));
  const moveBytes = Math.min(wantedBytes, ramRoom(attachment, ledger));
  const missingBytes = wantedBytes - moveBytes;
  const { command } = attachment.facts;
  return {
    action,
    epoch: links.epoch,
    pid,
    moveBytes: BigInt(moveBytes),
    missingBytes: BigInt(missingBytes),
    moves:
      moveBytes > 0
        ? [{ device: { kind: DeviceKind.RAM, index: 0 }, bytes: BigInt(moveBytes) }]
        : [],
    etaMs: moveBytes > 0 ? -1n : 0n,
    programs: [
      { pid, command, bytes: BigInt(vramBytes), note: 'what it uses again comes back into VRAM' },
    ],
    refusal: evictionRefusal(vramBytes, missingBytes),
  };
}

function evictionRefusal(vramBytes: number, missingBytes: number): string {
  if (vramBytes === 0) return 'it has nothing in VRAM';
  return missingBytes > 0 ? `local RAM has no room for ${formatBytes(missingBytes)}` : '';
}
