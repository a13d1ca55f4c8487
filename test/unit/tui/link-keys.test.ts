// SPDX-License-Identifier: Apache-2.0
// What `status` says of each link's security.
import { create } from '@bufbuild/protobuf';
import { expect, test } from '@jest/globals';
import { SnapshotSchema } from '../../../proto/gen/greenboost/v1/control_pb.js';
import { snapshotJson } from '../../../tui/model/snapshot.js';
import { linkTable } from '../../../tui/view/plain.js';

const DAY_MS = 86_400_000;
const NOW_MS = 1_760_000_000_000;

test('every link shows its cipher, its key by fingerprint, and how long it has had it', () => {
  const snapshot = snapshotJson(
    create(SnapshotSchema, {
      unixMs: BigInt(NOW_MS),
      memoryPressureSomeAvg10: -1,
      links: [
        {
          feederName: 'kiln',
          cipher: 'TLS_AES_128_GCM_SHA256',
          keyFingerprint: '1111-2222-3333-4444',
          keyAddedUnixMs: BigInt(NOW_MS - 3 * DAY_MS),
          laneCount: 2,
          laneCipher: 'AES-256-GCM',
          laneKeyAgeMs: 61_000n,
        },
        { feederName: 'loom', keyFingerprint: '5555-6666-7777-8888' },
      ],
    }),
  );
  expect(snapshot.links.map(({ keyAddedUnixMs }) => keyAddedUnixMs)).toEqual([
    NOW_MS - 3 * DAY_MS,
    null,
  ]);
  const { columns, rows } = linkTable(snapshot);
  const cells = (titles: readonly string[]): string[][] =>
    rows.map((row) =>
      titles.map((title) => row[columns.findIndex((column) => column.title === title)] ?? ''),
    );
  expect(cells(['FEEDER', 'CIPHER', 'KEY', 'KEY AGE', 'LANES'])).toEqual([
    [
      'kiln',
      'TLS_AES_128_GCM_SHA256',
      '1111-2222-3333-4444',
      expect.stringMatching(/^3 ?d/),
      expect.stringMatching(/^2 AES-256-GCM, key 1 ?m/),
    ],
    ['loom', '-', '5555-6666-7777-8888', '-', '-'],
  ]);
});
