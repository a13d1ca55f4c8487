// SPDX-License-Identifier: Apache-2.0
// The edge to the shim: what a GbError becomes in a reply. docs/protocol.md has the CUDA errors
// these become.
import { GbError, type GbErrorCode } from '../../proto/base/errors.js';
import { Status, type StatusCode } from './abi.js';

const STATUS: Readonly<Record<GbErrorCode, StatusCode>> = {
  INVALID_ARGUMENT: Status.INVALID,
  PROTOCOL_VIOLATION: Status.INVALID,
  UNAUTHENTICATED: Status.UNREACHABLE,
  PERMISSION_DENIED: Status.REFUSED,
  NOT_FOUND: Status.NOT_FOUND,
  ALREADY_EXISTS: Status.INVALID,
  CAPACITY_EXHAUSTED: Status.CAPACITY,
  EPOCH_STALE: Status.UNREACHABLE,
  WRONG_STATE: Status.UNREACHABLE,
  LEASE_EXPIRED: Status.DATA_LOSS,
  FEEDER_UNREACHABLE: Status.UNREACHABLE,
  AGENT_UNREACHABLE: Status.UNREACHABLE,
  DEADLINE_EXCEEDED: Status.UNREACHABLE,
  CANCELED: Status.UNREACHABLE,
  DATA_LOSS: Status.DATA_LOSS,
  UNSUPPORTED: Status.VERSION,
  DRIVER_ERROR: Status.INTERNAL,
};

/** Anything that is no GbError is a bug of ours and INTERNAL. */
export function statusOf(reason: unknown): StatusCode {
  return reason instanceof GbError ? STATUS[reason.code] : Status.INTERNAL;
}
