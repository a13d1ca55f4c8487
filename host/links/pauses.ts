// SPDX-License-Identifier: Apache-2.0
// Why a feeder lends nothing new, in the words of the host that would use it.
import { PauseCause, type FeederPause } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import type { EventLog } from '../control/events.js';
import type { Link } from './link.js';

const WORDS: Readonly<Record<PauseCause, string>> = {
  [PauseCause.UNSPECIFIED]: 'it lends nothing new',
  [PauseCause.OWNER]: 'paused by its owner',
  [PauseCause.HOURS]: 'outside of the hours at which it lends',
  [PauseCause.LOCAL_USE]: 'its owner uses its GPU',
};

/** `its owner uses its GPU`; several: with `; `. Empty: it lends. A cause of a newer feeder has general words. */
export function pauseWords(pauses: readonly Pick<FeederPause, 'cause'>[]): string {
  const words = pauses.map(({ cause }) => WORDS[cause] ?? WORDS[PauseCause.UNSPECIFIED]);
  return [...new Set(words)].join('; ');
}

/** Tells once when what holds a feeder changes. */
export class PauseNews {
  private readonly told = new WeakMap<Link, string>();

  constructor(private readonly events: EventLog) {}

  /** Returns true when the feeder lends again. */
  tell(link: Link): boolean {
    const words = pauseWords(link.pauses);
    if (words === (this.told.get(link) ?? '')) return false;
    this.told.set(link, words);
    if (words === '') this.events.add('info', 'feeder_lends', link.name, 'it lends again');
    else this.events.add('info', 'feeder_lends_nothing', link.name, words);
    return words === '';
  }
}
