// SPDX-License-Identifier: Apache-2.0
// Files that hold secrets: 0600, owned by this user, in a folder only this user can enter, replaced as a whole.
// One reader and one writer for all of them; what is inside belongs to key-file.ts and keyring.ts.
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  fsyncSync,
  openSync,
  readSync,
  renameSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { randomBytes } from 'node:crypto';
import { systemClock } from '../proto/base/clock.js';
import { GbError } from '../proto/base/errors.js';
import {
  PRIVATE_FILE_BYTES_MAX,
  PRIVATE_FILE_LOCK_STALE_MS,
  PRIVATE_FILE_LOCK_WAIT_MS,
} from '../proto/base/limits.js';
import { ensurePrivateDir } from '../proto/base/paths.js';

const LOCK_POLL_MS = 10;

/** The text of `path`, or undefined when there is no such file.
 *  @throws GbError PERMISSION_DENIED when it is a link, not a file, somebody else's, or open to group or world;
 *  DATA_LOSS when it is too large to be ours. */
export function readPrivateFile(path: string): string | undefined {
  const file = openOrUndefined(path);
  if (file === undefined) return undefined;
  try {
    const stat = fstatSync(file);
    if (!stat.isFile()) throw refused(path, 'is not a plain file', 'remove it');
    if (stat.uid !== process.getuid?.()) {
      throw refused(path, `belongs to user ${stat.uid}, not to you`, 'remove it or give it back');
    }
    if ((stat.mode & 0o077) !== 0) {
      const mode = (stat.mode & 0o777).toString(8).padStart(4, '0');
      const advice = `run "chmod 600 ${path}", and rotate the key if others could read it`;
      throw refused(path, `can be read by others (mode ${mode})`, advice);
    }
    return readAll(file, path);
  } finally {
    closeSync(file);
  }
}

/** Replaces `path` as a whole: readers see the old text or the new, also after a power cut. Makes the folder. */
export function writePrivateFile(path: string, text: string): void {
  ensurePrivateDir(dirname(path));
  const temporary = `${path}.${randomBytes(6).toString('hex')}.new`;
  const file = openSync(temporary, 'wx', 0o600);
  try {
    fchmodSync(file, 0o600); // The umask may have taken bits away, never added them.
    writeAll(file, Buffer.from(text, 'utf8'));
    fsyncSync(file);
    renameSync(temporary, path);
  } catch (reason) {
    unlinkSync(temporary);
    throw GbError.from(reason, 'PERMISSION_DENIED');
  } finally {
    closeSync(file);
  }
  syncFolder(dirname(path));
}

/** Runs `change` while no other process changes `path`; reading needs no lock. Blocks up to two seconds.
 *  @throws GbError WRONG_STATE when another process holds the lock all that time. */
export function withPrivateFileLock<T>(path: string, change: () => T): T {
  ensurePrivateDir(dirname(path));
  const lock = `${path}.lock`;
  const deadline = systemClock.nowMs() + PRIVATE_FILE_LOCK_WAIT_MS;
  while (!tryLock(lock)) {
    if (systemClock.nowMs() > deadline) {
      throw new GbError(
        'WRONG_STATE',
        `another greenboost is changing ${path}; try again, or remove ${lock}`,
      );
    }
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, LOCK_POLL_MS);
  }
  try {
    return change();
  } finally {
    unlinkSync(lock);
  }
}

/** A word that changes whenever the file is replaced; undefined when there is none. @throws when its folder is
 *  closed to us. */
export function privateFileVersion(path: string): string | undefined {
  const stat = statSync(path, { throwIfNoEntry: false, bigint: true });
  return stat && `${stat.dev}.${stat.ino}.${stat.mtimeNs}.${stat.size}.${stat.mode}.${stat.uid}`;
}

function openOrUndefined(path: string): number | undefined {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (reason) {
    const code = (reason as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') return undefined;
    if (code === 'ELOOP') throw refused(path, 'is a link', 'put the file itself there');
    throw refused(path, 'cannot be opened', 'check its owner and mode', reason);
  }
}

function readAll(file: number, path: string): string {
  const buffer = Buffer.alloc(PRIVATE_FILE_BYTES_MAX + 1);
  let used = 0;
  for (;;) {
    const count = readSync(file, buffer, used, buffer.length - used, null);
    used += count;
    if (used > PRIVATE_FILE_BYTES_MAX) {
      throw new GbError(
        'DATA_LOSS',
        `${path} is larger than any file greenboost writes; restore or remove it`,
      );
    }
    if (count === 0) return buffer.toString('utf8', 0, used);
  }
}

function writeAll(file: number, bytes: Buffer): void {
  let written = 0;
  while (written < bytes.length) written += writeSync(file, bytes, written);
}

function syncFolder(path: string): void {
  const folder = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}

function tryLock(lock: string): boolean {
  try {
    closeSync(openSync(lock, 'wx', 0o600));
    return true;
  } catch (reason) {
    if ((reason as NodeJS.ErrnoException).code !== 'EEXIST')
      throw GbError.from(reason, 'PERMISSION_DENIED');
  }
  const stat = statSync(lock, { throwIfNoEntry: false });
  if (stat && systemClock.unixMs() - stat.mtimeMs > PRIVATE_FILE_LOCK_STALE_MS) {
    try {
      unlinkSync(lock); // Its owner died while it held the lock.
    } catch (reason) {
      if ((reason as NodeJS.ErrnoException).code !== 'ENOENT')
        throw GbError.from(reason, 'PERMISSION_DENIED');
    }
  }
  return false;
}

function refused(path: string, what: string, advice: string, cause?: unknown): GbError {
  return new GbError('PERMISSION_DENIED', `${path} ${what}; ${advice}`, { cause });
}
