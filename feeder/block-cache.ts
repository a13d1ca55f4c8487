// SPDX-License-Identifier: Apache-2.0
// Where executors keep blocks that hosts sent before, and how many bytes of them. One folder per
// pairing key: blocks are named and sealed with a secret of that key, so that those of a key that
// is gone are noise, and are removed.
import { mkdirSync, readdirSync, rmSync, statfsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Clock, Timer } from '../proto/base/clock.js';
import { GbError } from '../proto/base/errors.js';
import {
  CACHE_BYTES_MAX_DEFAULT,
  CACHE_BYTES_MIN,
  CACHE_DISK_FRACTION,
  KEY_SWEEP_INTERVAL_MS,
} from '../proto/base/limits.js';
import type { Logger } from '../proto/base/log.js';
import { ensurePrivateDir } from '../proto/base/paths.js';
import { formatBytes } from '../proto/base/units.js';
import { deriveBlockCacheKey } from '../security/derive.js';
import { keyFingerprint, type PairingKey } from '../security/pairing.js';

/** What an executor is told. Ownership of `key`: the caller wipes it. */
export interface BlockCacheFolder {
  readonly key: Uint8Array;
  readonly path: string;
  readonly budgetBytes: number;
}

/** Longest path an executor takes. */
const PATH_BYTES_MAX = 255;
const FOLDER_NAME = /^[0-9a-f]{4}(-[0-9a-f]{4}){3}$/;

/** What is kept unless the user says otherwise: a tenth of what is free where `path` will be, 64
 *  GiB at most; 0 when that is too little to be of use. */
export function defaultCacheBytes(path: string): number {
  const { bavail, bsize } = statfsSync(existing(path));
  const share = Math.floor(bavail * bsize * CACHE_DISK_FRACTION);
  return share < CACHE_BYTES_MIN ? 0 : Math.min(share, CACHE_BYTES_MAX_DEFAULT);
}

/** The folder itself or the nearest one above it that there is. */
function existing(path: string): string {
  for (let folder = path; ; folder = dirname(folder)) {
    try {
      readdirSync(folder);
      return folder;
    } catch (reason) {
      if ((reason as NodeJS.ErrnoException).code !== 'ENOENT' || folder === dirname(folder))
        throw GbError.from(reason, 'PERMISSION_DENIED');
    }
  }
}

export class BlockCache {
  private sweep: Timer | undefined;

  /** @throws GbError PERMISSION_DENIED when the folder is not this user's own; INVALID_ARGUMENT
   *  when its path is too long. */
  constructor(
    readonly path: string,
    readonly budgetBytes: number,
    private readonly log: Logger,
  ) {
    if (Buffer.byteLength(join(path, 'ffff-ffff-ffff-ffff')) > PATH_BYTES_MAX)
      throw new GbError('INVALID_ARGUMENT', `--cache-dir ${path.slice(0, 60)}… is too long a path`);
    try {
      ensurePrivateDir(path);
    } catch (reason) {
      throw new GbError(
        'PERMISSION_DENIED',
        `the block cache cannot be in ${path}: ${GbError.from(reason).rawMessage}; ` +
          'choose another with --cache-dir, or --cache-bytes 0 for none',
        { cause: reason },
      );
    }
    log.info(
      { event: 'cache_opened', path, budgetBytes },
      `up to ${formatBytes(budgetBytes)} of blocks that hosts send are kept, sealed`,
    );
  }

  /** The folder of one key, for an executor of a session that was opened with it. */
  folderOf(key: PairingKey): BlockCacheFolder {
    const path = join(this.path, keyFingerprint(key));
    mkdirSync(path, { recursive: true, mode: 0o700 });
    return { key: deriveBlockCacheKey(key), path, budgetBytes: this.budgetBytes };
  }

  /** From now on, until close: what was kept under keys that are no more is removed. */
  watch(keys: () => readonly PairingKey[], clock: Clock): void {
    let known = '';
    const look = (): void => {
      const names = keys().map(keyFingerprint).join();
      if (names !== known) this.keepOnly(keys());
      known = names;
    };
    look();
    this.sweep = clock.every(KEY_SWEEP_INTERVAL_MS, look);
  }

  close(): void {
    this.sweep?.cancel();
  }

  private keepOnly(keys: readonly PairingKey[]): void {
    const names = new Set(keys.map(keyFingerprint));
    for (const name of readdirSync(this.path)) {
      if (!FOLDER_NAME.test(name) || names.has(name)) continue;
      rmSync(join(this.path, name), { recursive: true, force: true });
      this.log.info({ event: 'cache_emptied', fingerprint: name }, 'its pairing key was removed');
    }
  }
}
