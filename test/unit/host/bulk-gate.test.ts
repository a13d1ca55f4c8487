// SPDX-License-Identifier: Apache-2.0
import { expect, test } from '@jest/globals';
import { BulkGate, type BulkDirection } from '../../../host/links/bulk-gate.js';

/** Works that end when told, and a record of which run. */
function createWorks(gate: BulkGate) {
  const running = new Set<string>();
  const ends = new Map<string, { ok: () => void; fail: () => void }>();
  const start = (name: string, direction: BulkDirection): Promise<unknown> =>
    gate
      .run(direction, () => {
        running.add(name);
        return new Promise<void>((resolve, reject) => {
          const done = (settle: () => void) => () => {
            running.delete(name);
            settle();
          };
          ends.set(name, { ok: done(resolve), fail: done(() => reject(new Error('cut'))) });
        });
      })
      .catch((reason: unknown) => reason);
  const flush = () => new Promise((resolve) => setImmediate(resolve));
  return { running: () => [...running].sort(), ends, start, flush };
}

test('one direction at a time, in the order of arrival, at most so many at once', async () => {
  const works = createWorks(new BulkGate(2, async () => undefined));
  for (const name of ['u1', 'u2', 'u3', 'd1', 'u4']) {
    void works.start(name, name.startsWith('u') ? 'upload' : 'download');
  }
  await works.flush();
  expect(works.running()).toEqual(['u1', 'u2']);
  works.ends.get('u1')!.ok();
  await works.flush();
  expect(works.running()).toEqual(['u2', 'u3']); // u4 came after d1 and waits behind it.
  works.ends.get('u2')!.ok();
  works.ends.get('u3')!.ok();
  await works.flush();
  expect(works.running()).toEqual(['d1']);
  works.ends.get('d1')!.ok();
  await works.flush();
  expect(works.running()).toEqual(['u4']);
});

test('after a transfer that was cut the other direction waits for a round trip', async () => {
  let answered: () => void = () => undefined;
  const gate = new BulkGate(2, () => new Promise<void>((resolve) => (answered = resolve)));
  const works = createWorks(gate);
  const cut = works.start('d1', 'download');
  void works.start('u1', 'upload');
  await works.flush();
  works.ends.get('d1')!.fail();
  await works.flush();
  expect(works.running()).toEqual([]);
  answered();
  expect(await cut).toEqual(new Error('cut'));
  await works.flush();
  expect(works.running()).toEqual(['u1']);
});
