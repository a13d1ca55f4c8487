// SPDX-License-Identifier: Apache-2.0
// `greenboost connect` without an address: which feeders answer on this LAN, and which of them is meant.
import { GbError } from '../../proto/base/errors.js';
import { configDir } from '../../proto/base/paths.js';
import { listKeyring } from '../../security/keyring.js';
import { keyFingerprint } from '../../security/pairing.js';
import type { LinkJson } from '../model/links.js';
import type { Table } from '../view/plain.js';
import type { FoundFeeder } from '../control/discover.js';
import { note, tableLines, writeLine } from './output.js';
import { ProgressLine } from './progress.js';
import { canPrompt, promptLine } from './prompt.js';

/** A feeder that has answered, and what this host knows of its key. */
export interface KnownFeeder extends FoundFeeder {
  /** What it is called here; null: no link to it. */
  readonly feederName: string | null;
  readonly connected: boolean;
  readonly keyKnown: boolean;
}

const TRIES_MAX = 3;

function known(
  feeder: FoundFeeder,
  links: readonly LinkJson[],
  keys: ReadonlySet<string>,
): KnownFeeder {
  const link = links.find(({ keyFingerprint: key }) => key === feeder.keyFingerprint);
  return {
    ...feeder,
    feederName: link?.feederName || null,
    connected: link?.state === 'ready' || link?.state === 'draining',
    keyKnown: keys.has(feeder.keyFingerprint),
  };
}

/** Everybody who answers within the time, those first that are not connected. `links`: of the agent, none without
 *  one. */
export async function findFeeders(
  lookMs: number,
  links: readonly LinkJson[],
): Promise<KnownFeeder[]> {
  const { discoverFeeders } = await import('../control/discover.js');
  const keys = new Set(listKeyring(configDir()).map(keyFingerprint));
  const line = new ProgressLine();
  let count = 0;
  const show = (): void => line.show(`looking for feeders on this network: ${count} so far`);
  show();
  try {
    const found = await discoverFeeders({ lookMs, onFound: () => ((count += 1), show()) });
    const feeders = found.map((feeder) => known(feeder, links, keys));
    return [...feeders].sort((a, b) => Number(a.connected) - Number(b.connected));
  } finally {
    line.end();
  }
}

function aboutWords({ connected, feederName, keyKnown }: KnownFeeder): string {
  if (connected) return `connected: ${feederName ?? ''}`;
  if (feederName !== null) return `was connected: ${feederName}`;
  return keyKnown ? 'its key is in your keyring' : 'asks for its key';
}

function foundTable(feeders: readonly KnownFeeder[]): Table {
  return {
    columns: [
      { title: '#', align: 'right' },
      { title: 'ADDRESS' },
      { title: 'KEY', optional: true },
      { title: '' },
    ],
    rows: feeders.map((feeder, index) => [
      String(index + 1),
      feeder.address,
      feeder.keyFingerprint,
      aboutWords(feeder),
    ]),
  };
}

/** Shows who was found and asks which one is meant. @throws GbError NOT_FOUND when there is none, INVALID_ARGUMENT
 *  where nobody can be asked, CANCELED when none is chosen. */
export async function chooseFeeder(feeders: readonly KnownFeeder[]): Promise<KnownFeeder> {
  const [first] = feeders;
  if (!first) {
    throw new GbError('NOT_FOUND', 'no feeder answers on this network', {
      details: {
        hint: 'on it: greenboost feed start; its address also works: greenboost connect ADDRESS (mDNS is UDP 5353)',
      },
    });
  }
  for (const line of tableLines(foundTable(feeders))) writeLine(line);
  if (!canPrompt()) {
    throw new GbError('INVALID_ARGUMENT', 'which one? there is no terminal to ask on', {
      details: { hint: `name it: greenboost connect ${first.address}` },
    });
  }
  for (let attempt = 0; attempt < TRIES_MAX; attempt++) {
    const answer = (await promptLine(`Connect to which one? [1] `)).trim();
    if (answer === 'q') throw new GbError('CANCELED', 'none was chosen');
    const chosen = feeders[answer === '' ? 0 : Number(answer) - 1];
    if (chosen) return chosen;
    note(`give a number from 1 to ${feeders.length}, or q for none`);
  }
  throw new GbError('CANCELED', 'none was chosen');
}
