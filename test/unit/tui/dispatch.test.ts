// SPDX-License-Identifier: Apache-2.0
// Where kernels run: what is asked for on the command line, and how it is told.
import { create } from '@bufbuild/protobuf';
import { describe, expect, test } from '@jest/globals';
import {
  AttachmentSchema,
  ExplainResponseSchema,
  PlacedKind,
  RemoteDeviceSchema,
} from '../../../proto/gen/greenboost/v1/control_pb.js';
import { DeviceKind } from '../../../proto/gen/greenboost/v1/feeder_pb.js';
import { FEEDER } from '../../../proto/settings/feeder.js';
import { runEnvironment, type RunOptions } from '../../../tui/cli/commands/run.js';
import { allCommands, createProgram } from '../../../tui/cli/program.js';
import { flagsOf, type GivenOptions } from '../../../tui/cli/settings.js';
import { profileNamed } from '../../../tui/cli/profiles.js';
import { dispatchJson, explainJson } from '../../../tui/model/dispatch.js';
import { dispatchLines, explainTable, ranLines, stepLine } from '../../../tui/view/dispatch.js';

const environment = (options: RunOptions, base: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv =>
  runEnvironment(options, base, profileNamed('default'));

describe('run --remote', () => {
  test('merged admits ranges on feeders, too; so does the variable alone', () => {
    const expected = { GREENBOOST_REMOTE: 'merged', GREENBOOST_OVERCOMMIT: 'gated' };
    expect(environment({ remote: 'merged' })).toMatchObject(expected);
    expect(environment({}, { GREENBOOST_REMOTE: 'merged' })).toMatchObject(expected);
  });

  test('off goes before the variable; without either nothing is set', () => {
    const env = environment({ remote: 'off' }, { GREENBOOST_REMOTE: 'merged' });
    expect(env['GREENBOOST_REMOTE']).toBe('off');
    expect(env['GREENBOOST_OVERCOMMIT']).toBeUndefined();
    expect(environment({})['GREENBOOST_REMOTE']).toBeUndefined();
  });

  test('devices stands alone: neither gated nor copies go with it', () => {
    const env = environment({ remote: 'devices' });
    expect(env['GREENBOOST_REMOTE']).toBe('devices');
    expect(env['GREENBOOST_OVERCOMMIT']).toBeUndefined();
    expect(environment({}, { GREENBOOST_REMOTE: 'devices' })['GREENBOOST_REMOTE']).toBe('devices');
    for (const other of [{ overcommit: 'gated' }, { replicas: '2' }, { nvme: '/tmp' }] as const)
      expect(() => environment({ remote: 'devices', ...other })).toThrow(/without gated/);
  });

  test.each([
    [{ remote: 'merged', replicas: '2' } as const, {}],
    [{ remote: 'merged' } as const, { GREENBOOST_REPLICAS: '2' }],
    [{ replicas: '2' } as const, { GREENBOOST_REMOTE: 'merged' }],
  ])('is refused with two copies: %j %j', (options, base) => {
    expect(() => environment(options, base)).toThrow(/one copy/);
    expect(environment({ ...options, replicas: '1' }, base)['GREENBOOST_REMOTE']).toBe('merged');
  });
});

test('feed start --no-compute lends memory only; without it the daemon decides', async () => {
  const compute = async (...args: string[]) => {
    const program = createProgram();
    const start = allCommands(program).find((command) => command.name() === 'start')!;
    let told: unknown;
    start.action((options: GivenOptions) => {
      told = flagsOf(FEEDER, options).compute;
    });
    await program.parseAsync(['feed', 'start', ...args], { from: 'user' });
    return told;
  };
  expect(await compute('--no-compute')).toBe(false);
  expect(await compute('--compute')).toBe(true);
  expect(await compute()).toBeUndefined();
});

const FROM = create(AttachmentSchema, {
  pid: 7,
  launchCount: 3_000n,
  dispatch: true,
  dispatchedCount: 2_950n,
  undispatched: { code: 3n, room: 12_000n },
  launchOwners: [
    {
      feederId: 'F-1',
      feederName: 'kiln',
      lane: 1,
      launchCount: 2_950n,
      crossingCount: 40n,
      crossingSentBytes: 1n << 20n,
      crossingReceivedBytes: 2n << 20n,
      replicaBytes: 4n << 20n,
    },
  ],
});

describe('what is told', () => {
  test('of a program: launches by where they ran, and why some ran here', () => {
    const dispatch = dispatchJson(FROM);
    expect(JSON.parse(JSON.stringify(dispatch))).toEqual(dispatch);
    expect(dispatchLines({ pid: 7, dispatch })).toEqual([
      'pid 7: 50 launches here, 2,950 on kiln (40 crossings, 1.00 MiB out, 2.00 MiB in; copies 4.00 MiB)',
      'pid 7: brought back and run here, by reason: code 3, room 12,000',
    ]);
    expect(dispatchLines({ pid: 7, dispatch: dispatchJson(create(AttachmentSchema)) })).toEqual([]);
  });

  test('by explain: every device that a program sees, else its launches', () => {
    const devices = [0, 1].map((index) =>
      create(RemoteDeviceSchema, {
        ...{ index, lane: index + 1, feederId: `F-${index}`, feederName: `kiln${index}` },
        ...{ name: 'a GPU', capacityBytes: 4n << 20n, usedBytes: 1n << 20n },
      }),
    );
    const inDevices = create(AttachmentSchema, { ...FROM, remoteDevices: devices });
    expect(ranLines({ pid: 7, dispatch: dispatchJson(inDevices) })).toEqual([
      'pid 7: device +0 is a GPU of kiln0: 1.00 MiB of 4.00 MiB, 2,950 launches',
      'pid 7: device +1 is a GPU of kiln1: 1.00 MiB of 4.00 MiB, not used',
    ]);
    expect(ranLines({ pid: 7, dispatch: dispatchJson(FROM) })).toHaveLength(1);
    expect(ranLines({ pid: 7, dispatch: dispatchJson(create(AttachmentSchema)) })).toEqual([
      'its kernels run here: --remote is not in force for this program',
    ]);
  });

  test('of its ranges: addresses as the program knows them, devices and reasons in words', () => {
    const told = explainJson(
      create(ExplainResponseSchema, {
        attachment: FROM,
        arenaBase: 0x500000000000n,
        ranges: [
          {
            offset: 0x200000n,
            length: 4n << 20n,
            feederName: 'kiln',
            device: { kind: DeviceKind.GPU, index: 1 },
            kind: PlacedKind.REPLICA,
            why: 'because',
          },
          { offset: 0n, length: 2n << 20n, feederName: 'kiln', kind: PlacedKind.OWNED, lost: true },
        ],
        totalCount: 5n,
        reasons: [{ name: 'room', count: 12_000n, text: 'no room' }],
        step: {
          launchCount: 87n,
          rangeCount: 39n,
          crossingBeforeCount: 12n,
          crossingNowCount: 6n,
          crossingPlannedCount: 4n,
          movedCount: 3n,
          movedBytes: 6n << 20n,
        },
      }),
      1,
    );
    expect(JSON.parse(JSON.stringify(told))).toEqual(told);
    expect(told).toMatchObject({
      pid: 7,
      rangeCount: 5,
      reasons: [{ name: 'room', count: 12_000 }],
    });
    expect(stepLine(told)).toBe(
      'a step of 87 launches over 39 ranges crosses 6 times, 12 before: 3 ranges have moved (6.00 MiB)' +
        '; 4 were planned, and not every range could move',
    );
    expect(stepLine(explainJson(create(ExplainResponseSchema), 1))).toBeUndefined();
    expect(explainTable(told).rows).toEqual([
      ['0x500000200000', '4.00 MiB', 'copy', 'kiln', 'vram 1', 'because'],
      ['0x500000000000', '2.00 MiB', 'lost', 'kiln', '-', ''],
    ]);
  });
});
