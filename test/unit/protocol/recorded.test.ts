// SPDX-License-Identifier: Apache-2.0
// What released versions said on the wire is read for ever after: recorded bytes of every message, field by field, in
// TypeScript and in C. The recorder and the comparison are tried on what the sources say now.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import type { DescMessage } from '@bufbuild/protobuf';
import type { StructLayout } from '../../../proto/base/struct.js';
import { differences, type Value } from '../../vectors/protocol/fields.js';
import {
  compilerConstants,
  CONTRACTS,
  dumpStruct,
  readInC,
  type Contract,
  type FrameVector,
} from '../../vectors/protocol/frames.js';
import {
  callsOf,
  decodeMessage,
  messagesOf,
  type CallVector,
  type MessageVector,
} from '../../vectors/protocol/messages.js';
import { record } from '../../vectors/protocol/record.js';
import { constantsIn, PROTO_FILES, recordings, rowsOf } from '../../vectors/protocol/recordings.js';

const descriptors = new Map<string, DescMessage>(
  Object.values(PROTO_FILES)
    .flatMap(messagesOf)
    .map((desc) => [desc.typeName, desc]),
);

/** Field 15,000 twice, as a number and as text, and field 15,001: what a later version may add. */
const LATER = Buffer.from(
  'c0a907' + '2a' + 'c2a907' + '03' + '616263' + 'c9a907' + '0102030405060708',
  'hex',
);

function messageFlaws(vector: MessageVector, added = Buffer.alloc(0)): string[] {
  const desc = descriptors.get(vector.message);
  if (!desc) return [`${vector.message} is gone`];
  const now = decodeMessage(desc, Buffer.concat([Buffer.from(vector.hex, 'hex'), added]));
  return differences(vector.fields, now, `${vector.message} (${vector.variant})`);
}

/** A layout's version cannot be other than the one this package has, on the executor's private socket. */
function speaks({ name }: Contract, constants: Readonly<Record<string, string>>): boolean {
  if (name === 'shim') return true;
  const now = compilerConstants('driver/executor/gb_exec.h', ['GBX_VERSION']);
  return constants['GBX_VERSION'] === now['GBX_VERSION'];
}

function frameFlaws({ layouts, frame }: Contract, vector: FrameVector, added = 0): string[] {
  const bytes = Buffer.from(vector.hex, 'hex');
  const frameLayout = layouts[frame] as StructLayout;
  const head = bytes.subarray(0, frameLayout.size);
  const payload = Buffer.concat([bytes.subarray(frameLayout.size), Buffer.alloc(added, 0xee)]);
  const path = `${vector.message} ${vector.struct} (${vector.variant})`;
  const layout = layouts[vector.struct];
  if (vector.struct !== '' && !layout) return [`${path} is gone`];
  return [
    ...differences(vector.head, dumpStruct(frameLayout, head), `${path} head`),
    ...(layout ? differences(vector.fields, dumpStruct(layout, payload), path) : []),
  ];
}

/** Where C reads something else than was recorded. */
function frameFlawsInC(contract: Contract, vectors: readonly FrameVector[]): string[] {
  const { layouts, frame } = contract;
  const headBytes = (layouts[frame] as StructLayout).size;
  const carrying = vectors.filter(({ struct }) => struct !== '');
  const payloads = carrying.map(({ struct, hex }) => ({
    struct,
    payload: Buffer.from(hex, 'hex').subarray(headBytes),
  }));
  const rows = readInC(contract, payloads);
  return carrying.flatMap((vector, index) => {
    const { payload } = payloads[index]!;
    const { offsets, fields } = layouts[vector.struct] as StructLayout;
    const ends = [...Object.values(offsets).slice(1), payload.length];
    const expected = Object.keys(offsets).map((field, at): [string, string] => {
      const isNumber = typeof fields[field] === 'string';
      const value = (vector.fields as Record<string, Value>)[field];
      const raw = payload.subarray(offsets[field], ends[at]);
      return [field, isNumber ? String(value) : `hex:${raw.toString('hex')}`];
    });
    const path = `${vector.message} ${vector.struct} (${vector.variant}) in C`;
    return differences(Object.fromEntries(expected), rows[index] ?? null, path);
  });
}

function constantFlaws({ header }: Contract, recorded: Readonly<Record<string, string>>): string[] {
  const now = compilerConstants(header, Object.keys(recorded));
  return Object.entries(recorded).flatMap(([name, value]) => {
    const kept = name === 'GB_ABI_MINOR' ? Number(now[name]) >= Number(value) : now[name] === value;
    return kept ? [] : [`${name}: recorded ${value}, now ${now[name]}`];
  });
}

function callFlaws(recorded: readonly CallVector[]): string[] {
  const now = new Map(
    Object.values(PROTO_FILES)
      .flatMap(callsOf)
      .map((call) => [call.call, call]),
  );
  return recorded.flatMap((call) =>
    differences({ ...call }, { ...now.get(call.call) } as Value, call.call),
  );
}

/** Everything that a recording and the sources disagree about. */
function flawsOf(folder: string): string[] {
  const messages = (['feeder', 'control'] as const).flatMap((name) =>
    rowsOf<MessageVector>(folder, name),
  );
  const frames = CONTRACTS.flatMap((contract) => {
    const constants = constantsIn(folder, contract.name);
    if (!speaks(contract, constants)) return [];
    const vectors = rowsOf<FrameVector>(folder, contract.name);
    return [
      ...constantFlaws(contract, constants),
      ...vectors.flatMap((vector) => frameFlaws(contract, vector)),
      ...frameFlawsInC(contract, vectors),
    ];
  });
  return [
    ...messages.flatMap((vector) => messageFlaws(vector)),
    ...callFlaws(rowsOf<CallVector>(folder, 'calls')),
    ...frames,
  ];
}

describe('a recording of the sources as they are', () => {
  let folder: string;
  beforeAll(() => {
    folder = join(mkdtempSync(join(tmpdir(), 'greenboost-recording-')), '1.2.3');
    record(folder);
  }, 60_000);
  afterAll(() => rmSync(join(folder, '..'), { recursive: true }));

  test('holds every message with each of its fields set to something', () => {
    const vectors = [
      ...rowsOf<MessageVector>(folder, 'feeder'),
      ...rowsOf<MessageVector>(folder, 'control'),
    ];
    for (const [name, desc] of descriptors) {
      const own = vectors.filter(({ message }) => message === name);
      expect({ name, variants: own.map(({ variant }) => variant) }).toMatchObject({
        variants: expect.arrayContaining(
          desc.fields.length > 0 ? ['empty', 'full', 'extreme'] : ['empty'],
        ),
      });
      const set = new Set(
        own.flatMap(({ fields }) => Object.keys(fields as Record<string, Value>)),
      );
      expect(desc.fields.map((field) => field.name).filter((field) => !set.has(field))).toEqual([]);
    }
  });

  test('is read as it was written', () => {
    expect(flawsOf(folder)).toEqual([]);
  });

  test('is read the same with fields that a later version may add', () => {
    const vectors = [
      ...rowsOf<MessageVector>(folder, 'feeder'),
      ...rowsOf<MessageVector>(folder, 'control'),
    ];
    expect(vectors.flatMap((vector) => messageFlaws(vector, LATER))).toEqual([]);
    const shim = CONTRACTS[0]!;
    expect(
      rowsOf<FrameVector>(folder, 'shim').flatMap((vector) => frameFlaws(shim, vector, 64)),
    ).toEqual([]);
  });

  test('shows a field that moved, a value that changed, and a message that is gone', () => {
    const [vector] = rowsOf<MessageVector>(folder, 'feeder').filter(
      ({ message, variant }) => message === 'greenboost.v1.LeaseRef' && variant === 'full',
    );
    const moved = vector!.hex.replace(/10(.{12})$/, '18$1');
    expect(moved).not.toBe(vector!.hex);
    expect(messageFlaws({ ...vector!, hex: moved })).not.toEqual([]);
    expect(
      messageFlaws({ ...vector!, fields: { ...(vector!.fields as object), fencing_token: '1' } }),
    ).toEqual([expect.stringContaining('.fencing_token: recorded "1", now')]);
    expect(messageFlaws({ ...vector!, message: 'greenboost.v1.Gone' })).toEqual([
      'greenboost.v1.Gone is gone',
    ]);
    const frames = rowsOf<FrameVector>(folder, 'shim');
    const [budget] = frames.filter(
      ({ struct, variant }) => struct === 'gb_budget' && variant === 'full',
    );
    const swapped =
      budget!.hex.slice(0, 32) +
      budget!.hex.slice(40, 48) +
      budget!.hex.slice(32, 40) +
      budget!.hex.slice(48);
    expect(frameFlaws(CONTRACTS[0]!, { ...budget!, hex: swapped })).not.toEqual([]);
    expect(frameFlawsInC(CONTRACTS[0]!, [{ ...budget!, hex: swapped }])).not.toEqual([]);
    const constants = constantsIn(folder, 'shim');
    expect(constantFlaws(CONTRACTS[0]!, { ...constants, GB_MSG_HELLO: '9' })).toEqual([
      'GB_MSG_HELLO: recorded 9, now 1',
    ]);
  });
});

test('every released version is read', () => {
  const flaws = recordings().map((folder) => [basename(folder), flawsOf(folder)]);
  expect(flaws.length).toBeGreaterThan(0);
  expect(Object.fromEntries(flaws)).toEqual(
    Object.fromEntries(flaws.map(([version]) => [version, []])),
  );
});
