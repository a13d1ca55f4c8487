// SPDX-License-Identifier: Apache-2.0
// What survives a restart of the agent: who we are, our links, and the leases of running programs.
// One JSON file, written whole beside the old one and renamed over it. Secrets are not in it; they
// lie in the keyring.
import { readFileSync, statSync } from 'node:fs';
import { mkdir, open, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { GbError } from '../proto/base/errors.js';
import { createId } from '../proto/base/ids.js';
import { DEVICES_MAX } from './shim/abi.js';
import {
  ATTACHMENTS_MAX,
  LINKS_MAX,
  MOVES_IN_FLIGHT_MAX,
  PENDING_RELEASES_MAX,
  RANGES_PER_LEASE_MAX,
  STATE_FILE_BYTES_MAX,
} from '../proto/base/limits.js';

const feederId = z.string().regex(/^F-[0-9a-f]{16}$/);
const leaseId = z.string().regex(/^L-[0-9a-f]{16}$/);
const token = z.string().regex(/^\d{1,20}$/);
const bytes = z.number().int().nonnegative();

const linkSchema = z.strictObject({
  address: z.string().max(300),
  feederId,
  /** Which key of the keyring; differs from feederId for shared keys. */
  keyId: feederId,
  name: z.string().max(200),
  incarnation: z.string().max(100),
  /** No new placements there, until resumed. */
  paused: z.boolean().default(false),
});

const leaseSchema = z.strictObject({
  feederId,
  feederName: z.string().max(200),
  leaseId,
  /** 0: of an agent that knew no lanes. */
  lane: z.number().int().nonnegative().max(0xffff_ffff).default(0),
  fencingToken: token,
  limits: z.array(z.tuple([z.string().regex(/^\d{1,2}:\d{1,10}$/), bytes])).max(64),
});

const discardSchema = z.strictObject({ feederId, leaseId, offset: bytes, length: bytes });

/** Room for copies of what lies with the program. */
const replicaSchema = discardSchema.extend({
  deviceKey: z.string().regex(/^\d{1,2}:\d{1,10}$/),
});

const lane = z.number().int().positive().max(0xffff_ffff);

/** The program was asked to use another copy and has not answered. */
const moveSchema = z.strictObject({
  sequence: token,
  offset: bytes,
  length: bytes,
  fromLane: lane,
  toLane: lane,
  sourceLane: lane,
});

const attachmentSchema = z.strictObject({
  attachmentId: z.string().regex(/^[0-9a-f]{32}$/),
  pid: z.number().int().positive(),
  startTicks: z.number().int().nonnegative(),
  command: z.string().max(200),
  deviceName: z.string().max(200),
  arenaBase: z.string().regex(/^\d{1,20}$/),
  arenaBytes: bytes,
  gated: z.boolean(),
  copies: z.union([z.literal(1), z.literal(2)]).default(1),
  dispatch: z.boolean().default(false),
  /** GPUs of feeders are its devices; of these feeders, in the order of the devices; null: not asked for yet. */
  devices: z.boolean().default(false),
  deviceFeeders: z.array(feederId).max(DEVICES_MAX).nullable().default(null),
  replicas: z.array(replicaSchema).max(RANGES_PER_LEASE_MAX).default([]),
  startedUnixMs: z.number(),
  nextLane: lane.default(1),
  leases: z.array(leaseSchema).max(LINKS_MAX),
  /** Ranges on those leases that are not the program's any more. */
  discards: z.array(discardSchema).max(RANGES_PER_LEASE_MAX),
  moves: z
    .array(moveSchema)
    .max(LINKS_MAX * MOVES_IN_FLIGHT_MAX)
    .default([]),
});

const stateSchema = z.strictObject({
  version: z.literal(1),
  hostId: z.string().regex(/^H-[0-9a-f]{16}$/),
  links: z.array(linkSchema).max(LINKS_MAX),
  attachments: z.array(attachmentSchema).max(ATTACHMENTS_MAX),
  /** Leases to end when their feeder is back. */
  pendingReleases: z
    .array(z.strictObject({ feederId, leaseId, fencingToken: token }))
    .max(LINKS_MAX * PENDING_RELEASES_MAX),
});

export type AgentState = z.infer<typeof stateSchema>;
export type SavedLink = AgentState['links'][number];
export type SavedAttachment = AgentState['attachments'][number];

/** Reads the text of a state file. @throws GbError DATA_LOSS when it is not one. */
export function parseState(text: string): AgentState {
  try {
    return stateSchema.parse(JSON.parse(text));
  } catch (reason) {
    throw new GbError('DATA_LOSS', 'the state file of the agent is damaged', { cause: reason });
  }
}

/** The state of an agent that never ran. */
export function freshState(): AgentState {
  return { version: 1, hostId: createId('host'), links: [], attachments: [], pendingReleases: [] };
}

/** The state at `path`, or a fresh one when there is no file. @throws GbError DATA_LOSS when it is
 *  damaged. */
export function loadState(path: string): AgentState {
  try {
    if (statSync(path).size > STATE_FILE_BYTES_MAX)
      throw new GbError('DATA_LOSS', `${path} is too large`);
    return parseState(readFileSync(path, 'utf8'));
  } catch (reason) {
    if ((reason as NodeJS.ErrnoException).code === 'ENOENT') return freshState();
    throw reason;
  }
}

/** Writes the state whenever asked, one write at a time; requests that come during a write share
 *  the next one. */
export class StateWriter {
  private running: Promise<void> | undefined;
  private next: Promise<void> | undefined;

  constructor(
    private readonly path: string,
    private readonly collect: () => AgentState,
  ) {}

  /** Resolves when a state collected at or after this call is on disk. */
  save(): Promise<void> {
    if (this.next) return this.next;
    if (!this.running) return this.begin();
    const next = this.running
      .catch(() => undefined)
      .then(() => {
        this.next = undefined;
        return this.begin();
      });
    this.next = next;
    return next;
  }

  private begin(): Promise<void> {
    const running = this.write().finally(() => {
      if (this.running === running) this.running = undefined;
    });
    this.running = running;
    return running;
  }

  private async write(): Promise<void> {
    const text = `${JSON.stringify(this.collect())}\n`;
    await mkdir(dirname(this.path), { recursive: true, mode: 0o700 });
    const temporary = `${this.path}.new`;
    const file = await open(temporary, 'w', 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, this.path);
  }
}
