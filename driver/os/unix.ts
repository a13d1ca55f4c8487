// SPDX-License-Identifier: Apache-2.0
// The few system calls that Node does not offer: who is behind a Unix socket, whole-file locks,
// seals of a memfd, pairs of sockets that keep messages apart.
import { closeSync, openSync } from 'node:fs';
import koffi from 'koffi';
import { GbError } from '../../proto/base/errors.js';

const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const UCRED_BYTES = 12;
const LOCK_EX = 2;
const LOCK_NB = 4;
const EWOULDBLOCK = 11;
const AF_UNIX = 1;
const SOCK_SEQPACKET = 5;
const SOCK_CLOEXEC = 0o2000000;

type Call = (...args: readonly unknown[]) => number;

interface LibC {
  readonly getsockopt: Call;
  readonly flock: Call;
  readonly socketpair: Call;
}

let loaded: LibC | undefined;

function libc(): LibC {
  if (loaded) return loaded;
  const library = koffi.load('libc.so.6');
  loaded = {
    getsockopt: library.func(
      'int getsockopt(int fd, int level, int name, void *value, void *length)',
    ) as Call,
    flock: library.func('int flock(int fd, int operation)') as Call,
    socketpair: library.func(
      'int socketpair(int domain, int type, int protocol, void *fds)',
    ) as Call,
  };
  return loaded;
}

export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** Who connected the Unix socket with descriptor `fd`, as the kernel recorded it at connect time.
 *  @throws GbError DRIVER_ERROR when `fd` is no connected Unix socket. */
export function peerCredentials(fd: number): PeerCredentials {
  const value = Buffer.alloc(UCRED_BYTES);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(UCRED_BYTES);
  if (libc().getsockopt(fd, SOL_SOCKET, SO_PEERCRED, value, length) !== 0) {
    throw new GbError('DRIVER_ERROR', `SO_PEERCRED failed`, { details: { errno: koffi.errno() } });
  }
  return { pid: value.readInt32LE(0), uid: value.readUInt32LE(4), gid: value.readUInt32LE(8) };
}

/** Two connected Unix sockets of SOCK_SEQPACKET, closed in programs that are started. Ownership: the
 *  caller closes both. @throws GbError DRIVER_ERROR when there are no descriptors left. */
export function seqpacketPair(): readonly [number, number] {
  const fds = Buffer.alloc(8);
  if (libc().socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) !== 0) {
    throw new GbError('DRIVER_ERROR', 'socketpair failed', { details: { errno: koffi.errno() } });
  }
  return [fds.readInt32LE(0), fds.readInt32LE(4)];
}

export interface FileLock {
  release(): void;
}

/** Takes an exclusive lock on `path` (created 0600), held until release or the end of the process,
 *  however it ends. Returns undefined when another process holds it. @throws GbError DRIVER_ERROR
 *  on any other failure. */
export function tryLockFile(path: string): FileLock | undefined {
  const fd = openSync(path, 'a', 0o600);
  if (libc().flock(fd, LOCK_EX | LOCK_NB) === 0) return { release: () => closeSync(fd) };
  const errno = koffi.errno();
  closeSync(fd);
  if (errno === EWOULDBLOCK) return undefined;
  throw new GbError('DRIVER_ERROR', `cannot lock ${path}`, { details: { errno } });
}
