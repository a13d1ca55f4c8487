// SPDX-License-Identifier: Apache-2.0
// Keys change under a running program: added, used, removed, on both feeders, and nothing is lost, repeated or even
// noticed. Then one feeder takes its key away from the host, which costs the other feeder nothing. The audit log of
// each machine tells all of it.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AuditLine } from '../../security/audit-reader.js';
import type { LinkJson } from '../../tui/model/links.js';
import { createCluster, type Cluster } from './cluster.js';
import { waitFor, type Machine } from './machine.js';

/** A session of a removed key ends within two seconds, and silence is noticed in two more. */
const SETTLE_MS = 4_500;

let cluster: Cluster;
beforeAll(async () => {
  cluster = await createCluster();
});
afterAll(async () => (cluster as Cluster | undefined)?.close());

interface KeyList {
  readonly own: readonly { readonly fingerprint: string }[];
}

async function ownKeys(feeder: Machine): Promise<string[]> {
  const list = JSON.parse(await feeder.call(['key', 'list', '--json'])) as KeyList;
  return list.own.map(({ fingerprint }) => fingerprint);
}

async function audit(machine: Machine): Promise<AuditLine[]> {
  const text = await machine.call(['audit', '--json']);
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as AuditLine);
}

async function linkTo(feeder: Machine): Promise<LinkJson> {
  const { links } = await cluster.host.status();
  return links.find(({ feederName }) => feederName === feeder.name) as LinkJson;
}

/** What a person does: a new key, its line to the host, and the old key away. Answers both fingerprints. */
async function rotate(feeder: Machine): Promise<{ before: string; after: string }> {
  const before = (await linkTo(feeder)).keyFingerprint;
  await feeder.call(['key', 'rotate']);
  await cluster.host.connect(feeder, '9740');
  const { state, keyFingerprint: after } = await linkTo(feeder);
  expect({ state, changed: after !== before }).toEqual({ state: 'ready', changed: true });
  expect(await ownKeys(feeder)).toEqual([after, before]);
  await feeder.call(['key', 'revoke', before]);
  return { before, after };
}

test('a program goes on while the keys of both feeders are rotated', async () => {
  const until = join(cluster.host.folder, 'rotated');
  const run = cluster.startWorkload(['--rounds', '100000', '--until-file', until]);
  await cluster.spilled();
  const eventsBefore = (await cluster.host.events()).length;
  const rotated: { before: string; after: string }[] = [];
  for (const feeder of cluster.feeders) rotated.push(await rotate(feeder));
  expect(run.child.exitCode).toBe(null);
  await sleep(SETTLE_MS);
  for (const [index, feeder] of cluster.feeders.entries()) {
    expect(await linkTo(feeder)).toMatchObject({
      state: 'ready',
      keyFingerprint: rotated[index]!.after,
      errorCount: 0,
    });
  }
  // What each link is secured with is shown, of its lanes too.
  const links = await waitFor('lanes are shown', async () => {
    const { links: now } = await cluster.host.status();
    return now.some(({ laneCount }) => laneCount > 0) ? now : undefined;
  });
  for (const link of links) {
    expect(link).toMatchObject({
      cipher: 'TLS_AES_128_GCM_SHA256',
      keyAddedUnixMs: expect.any(Number),
    });
    expect(Date.now() - (link.keyAddedUnixMs as number)).toBeLessThan(120_000);
    if (link.laneCount === 0) continue;
    expect(link.laneCipher).toMatch(/^(AES-256-GCM|ChaCha20-Poly1305)$/);
    expect(link.laneKeyAgeMs).toBeLessThan(120_000);
  }
  writeFileSync(until, '');
  const done = await run.finished;
  expect({ code: done.code, stderr: done.code === 0 ? '' : done.stderr }).toEqual({
    code: 0,
    stderr: '',
  });
  const result = JSON.parse(done.stdout.trim().split('\n').at(-1) as string) as {
    mismatches: number;
  };
  expect(result.mismatches).toBe(0);

  const names = (await cluster.host.events()).slice(eventsBefore).map(({ name }) => name);
  expect(names.filter((name) => name === 'feeder_key_changed')).toHaveLength(2);
  for (const name of ['feeder_stale', 'feeder_lost', 'feeder_refused', 'data_lost'])
    expect(names).not.toContain(name);
  for (const [index, feeder] of cluster.feeders.entries())
    await checkAudit(feeder, rotated[index]!);
  await checkLanes(rotated);
});

/** Both machines wrote down the same story, in the right order. */
async function checkAudit(
  feeder: Machine,
  { before, after }: { before: string; after: string },
): Promise<void> {
  const lines = await audit(feeder);
  const at = (event: string, fingerprint: string): number =>
    lines.findIndex((line) => line.event === event && line['fingerprint'] === fingerprint);
  const story = [
    at('session_opened', before),
    at('key_added', after),
    at('session_opened', after),
    at('session_closed', before),
    at('key_removed', before),
  ];
  expect(story).not.toContain(-1);
  expect(story).toEqual([...story].sort((a, b) => a - b));
  expect(lines.filter(({ event }) => event === 'keys_changed').at(-1)).toMatchObject({
    fingerprints: [after],
  });
  expect(lines.filter((line) => line['reason'] === 'revoked')).toEqual([]);
  const host = (await audit(cluster.host)).filter(
    (line) => line['name'] === feeder.name && line.by === 'agent',
  );
  expect(host.map(({ event, fingerprint }) => [event, fingerprint])).toEqual([
    ['link_opened', before],
    ['link_closed', before],
    ['link_opened', after],
  ]);
  const sessions = [lines, host].map((list) =>
    list.flatMap(({ event, session }) => (event.endsWith('_opened') ? [session] : [])),
  );
  expect(sessions[0]).toEqual(expect.arrayContaining(sessions[1] as unknown[]));
}

/** The program's lanes under the old keys were ended by the feeders, and others came in their place. */
async function checkLanes(rotated: readonly { before: string; after: string }[]): Promise<void> {
  const lines = (await Promise.all(cluster.feeders.map(audit))).flat();
  const tickets = lines.filter(({ event }) => event === 'lane_ticket');
  const leases = (keys: readonly string[]): unknown[] =>
    tickets.flatMap(({ lease, fingerprint }) =>
      lease && keys.includes(String(fingerprint)) ? [lease] : [],
    );
  const old = leases(rotated.map(({ before }) => before));
  expect(old.length).toBeGreaterThan(0);
  expect(leases(rotated.map(({ after }) => after))).toEqual(expect.arrayContaining(old));
  const ended = lines.filter(
    ({ event, reason }) => event === 'lane_closed' && reason === 'key_removed',
  );
  expect(ended.map(({ lease }) => lease)).toEqual(expect.arrayContaining(old));
}

test('a feeder that takes its key away is left, and the other one is not', async () => {
  const [victim, other] = cluster.feeders as [Machine, Machine];
  const following = victim.greenboost(['audit', '--follow']);
  const [fingerprint] = (await ownKeys(victim)) as [string];
  const sessionOf = (await linkTo(other)).sessionId;
  await victim.call(['key', 'revoke', fingerprint]);
  await waitFor('the link is closed', async () => (await linkTo(victim)).state === 'closed');
  expect((await linkTo(victim)).detail).toContain('refused the pairing key');
  expect(await linkTo(other)).toMatchObject({ state: 'ready', sessionId: sessionOf });
  const address = `${victim.namespace.address}:9740`;
  const again = await cluster.host.greenboost(['connect', address]).finished;
  expect({ code: again.code, stderr: again.stderr }).toMatchObject({
    code: 4,
    stderr: expect.stringContaining('refused the pairing key') as unknown,
  });
  const lines = await audit(victim);
  expect(lines.find((line) => line['reason'] === 'revoked')).toMatchObject({
    event: 'session_closed',
    fingerprint,
  });
  expect(lines.filter(({ event }) => event === 'session_refused').at(-1)).toMatchObject({
    by: 'feeder',
    reason: 'unknown_identity',
  });
  const refused = (await audit(cluster.host)).filter(({ event }) => event === 'link_refused');
  expect(refused.at(-1)).toMatchObject({
    address,
    reason: 'unauthenticated',
    fingerprint,
  });
  await waitFor('audit --follow shows it', () =>
    /session_refused .*unknown_identity/.test(following.output()),
  );
  expect(following.output()).not.toMatch(/gb1-/i);
});
