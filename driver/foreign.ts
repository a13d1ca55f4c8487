// SPDX-License-Identifier: Apache-2.0
// Foreign libraries as promises: every function runs on a worker thread of koffi's, so that a driver
// that blocks does not stop the daemon; a status other than 0 rejects.
import koffi from 'koffi';
import { GbError } from '../proto/base/errors.js';

export type ForeignCall = (...args: readonly unknown[]) => Promise<void>;

export interface ForeignLibrary<Name extends string> {
  /** Name here -> C declaration; pointers are buffers of the caller. */
  readonly declarations: Readonly<Record<Name, string>>;
  /** What a status other than 0 of the C function `name` means. */
  readonly errorFrom: (name: string, status: number) => GbError;
  /** What to say when the library is not there. */
  readonly missing: string;
}

type Async = { async(...args: unknown[]): void };

const loaded = new Map<string, unknown>();

/** Loads a library once per path. @throws GbError NOT_FOUND when it is not there, or lacks one of the functions. */
export function loadForeign<Name extends string>(
  path: string,
  library: ForeignLibrary<Name>,
): Readonly<Record<Name, ForeignCall>> {
  const before = loaded.get(path);
  if (before) return before as Readonly<Record<Name, ForeignCall>>;
  try {
    const handle = koffi.load(path);
    const entries = Object.entries<string>(library.declarations).map(([name, declaration]) => [
      name,
      promised(functionName(declaration), handle.func(declaration), library.errorFrom),
    ]);
    const calls = Object.fromEntries(entries) as Readonly<Record<Name, ForeignCall>>;
    loaded.set(path, calls);
    return calls;
  } catch (reason) {
    const why = GbError.from(reason).rawMessage;
    throw new GbError('NOT_FOUND', `${library.missing} (${why})`, { cause: reason });
  }
}

function functionName(declaration: string): string {
  return /(\w+)\(/.exec(declaration)?.[1] ?? declaration;
}

function promised(
  name: string,
  call: Async,
  errorFrom: (name: string, status: number) => GbError,
): ForeignCall {
  return (...args) =>
    new Promise((resolve, reject) => {
      call.async(...args, (error: Error | null, status: number) => {
        if (error) reject(GbError.from(error));
        else if (status !== 0) reject(errorFrom(name, status));
        else resolve();
      });
    });
}
