// SPDX-License-Identifier: Apache-2.0
// The one error class of the control plane. Codes are those of errors.proto; each edge (gRPC, CLI, shim) translates
// them in one file of its own.
import { ErrorCode } from '../gen/greenboost/v1/errors_pb.js';

export type GbErrorCode = Exclude<keyof typeof ErrorCode, 'UNSPECIFIED'>;

const RETRYABLE: ReadonlySet<GbErrorCode> = new Set([
  'LEASE_EXPIRED',
  'FEEDER_UNREACHABLE',
  'AGENT_UNREACHABLE',
]);

export interface GbErrorOptions {
  /** Facts for the log and for `--json`; numbers stay numbers, never secrets. */
  readonly details?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

/** An expected failure. The message reads `[CODE] text`, `text` alone is in `rawMessage`. */
export class GbError extends Error {
  readonly code: GbErrorCode;
  readonly rawMessage: string;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: GbErrorCode, text: string, options: GbErrorOptions = {}) {
    super(`[${code}] ${text}`, options.cause === undefined ? {} : { cause: options.cause });
    this.name = 'GbError';
    this.code = code;
    this.rawMessage = text;
    this.details = options.details ?? {};
  }

  /** True when the same call may succeed later without anybody changing anything. */
  get retryable(): boolean {
    return RETRYABLE.has(this.code);
  }

  /** Wraps anything thrown; a GbError passes through unchanged. */
  static from(reason: unknown, code: GbErrorCode = 'DRIVER_ERROR'): GbError {
    if (reason instanceof GbError) return reason;
    if (reason instanceof Error) {
      const aborted = reason.name === 'AbortError';
      return new GbError(aborted ? 'CANCELED' : code, reason.message, { cause: reason });
    }
    return new GbError(code, String(reason), { cause: reason });
  }
}

/** Type guard for code that must tell expected failures from bugs. */
export function isGbErrorCode(text: string): text is GbErrorCode {
  return text !== 'UNSPECIFIED' && Object.hasOwn(ErrorCode, text) && Number.isNaN(Number(text));
}
