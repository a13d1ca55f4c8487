// SPDX-License-Identifier: Apache-2.0
// Three feeders in memory and a program on them.
import { Attachment } from '../../../host/attachments/attachment.js';
import type { ByteRange } from '../../../host/placement/residency.js';
import { systemClock } from '../../../proto/base/clock.js';
import { MIB } from '../../../proto/base/units.js';
import { FakeDirectory, FakeFeeder } from './fake-feeder.js';
import { FakeProgram } from './fake-program.js';

export const CHUNK = 2 * MIB;
export const RAM = '1:0';
export const VRAM = '2:0';

const fast = { readBytesPerSecond: 2e9, latencyMicros: 100 };
const slow = { readBytesPerSecond: 1e9, latencyMicros: 100 };

function capacity(ram: number, vram = 0): Map<string, number> {
  return new Map([[RAM, ram * CHUNK], ...(vram > 0 ? [[VRAM, vram * CHUNK] as const] : [])]);
}

export interface Bench {
  /** Runs whenever the attachment wants its state on disk. */
  onPersist: () => void | Promise<void>;
  readonly a: FakeFeeder;
  readonly b: FakeFeeder;
  readonly c: FakeFeeder;
  readonly directory: FakeDirectory;
  readonly attachment: Attachment;
  readonly program: FakeProgram;
  readonly lost: (ByteRange & { feeder: string })[];
  /** What people would read, in order. */
  readonly told: string[];
}

export const WATCH = {
  signal: new AbortController().signal,
  onPulled: () => undefined,
  onMoved: () => undefined,
};

export function factsOf(copies: 1 | 2): Attachment['facts'] {
  return {
    attachmentId: '00'.repeat(16),
    identity: { pid: process.pid, startTicks: 1 },
    command: 'test',
    deviceUuid: '',
    deviceTotalBytes: 0,
    deviceName: 'GPU',
    arenaBase: 0x500000000000n,
    arenaBytes: 64 * CHUNK,
    gated: true,
    copies,
    dispatch: false,
    devices: false,
    vramBudgetBytes: undefined,
    ramBudgetBytes: undefined,
    startedUnixMs: 0,
    runId: '',
  };
}

export function bench(
  ramA = 8,
  ramB = 8,
  vramB = 0,
  { ramC = 0, copies = 1 as 1 | 2, clock = systemClock } = {},
): Bench {
  const a = new FakeFeeder('F-000000000000000a', 'alpha', capacity(ramA), fast);
  const b = new FakeFeeder('F-000000000000000b', 'beta', capacity(ramB, vramB), slow);
  const c = new FakeFeeder('F-000000000000000c', 'gamma', capacity(ramC), slow);
  const directory = new FakeDirectory([a, b, c]);
  const made = { a, b, c, directory, lost: [], told: [], onPersist: () => undefined };
  const attachment = attachmentOf(made, factsOf(copies), clock);
  return Object.assign(made, { attachment, program: new FakeProgram(attachment) });
}

export function attachmentOf(
  made: Pick<Bench, 'directory' | 'onPersist' | 'lost' | 'told'>,
  facts: Attachment['facts'],
  clock = systemClock,
): Attachment {
  return new Attachment(facts, {
    clock,
    directory: made.directory,
    persist: async () => made.onPersist(),
    onLost: (_attachment, range, feeder) => void made.lost.push({ ...range, feeder }),
    onBare: () => void made.told.push('bare'),
    onWhole: () => void made.told.push('whole'),
    onLaneBroken: () => void made.told.push('lane broken'),
    onRefused: (_attachment, feeder, why) =>
      void made.told.push(`${feeder} ${why ? `refuses: ${why.code}` : 'has taken it back'}`),
    onBug: (error) => {
      throw error;
    },
  });
}

export const store = (
  { program }: Bench,
  offset: number,
  fill: number,
  length = CHUNK,
): Promise<void> => program.store(offset, fill, length);

export const fetched = ({ program }: Bench, offset: number, length: number): Promise<Buffer> =>
  program.fetched(offset, length);

export const full = (fill: number, length = CHUNK): Buffer => Buffer.alloc(length, fill);
