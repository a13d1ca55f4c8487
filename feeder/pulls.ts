// SPDX-License-Identifier: Apache-2.0
// Transfers from other feeders, as executors run them; bounded in number, and ended with their
// call.
import { GbError } from '../proto/base/errors.js';
import { PULLS_MAX } from '../proto/base/limits.js';
import type { Executor } from '../driver/executor/client.js';
import type { Pull } from '../driver/executor/lanes.js';
import { withLaneStatus } from './lanes.js';

export class PullCalls {
  private running = 0;

  /** Resolves when every byte is in place. Cancel: by the signal; what has arrived stays. `secret`
   *  of the pull is wiped.
   * @throws GbError FEEDER_UNREACHABLE when the other feeder is not there, refuses or leaves;
   *  CAPACITY_EXHAUSTED. */
  async run(
    executor: Pick<Executor, 'pull'>,
    pull: Pull,
    signal: AbortSignal,
    onProgress: (bytes: number) => void,
  ): Promise<void> {
    if (this.running >= PULLS_MAX)
      throw new GbError('CAPACITY_EXHAUSTED', `${PULLS_MAX} transfers between feeders run now`);
    this.running += 1;
    try {
      await executor.pull(pull, { signal, onProgress });
    } catch (reason) {
      throw pullError(reason, pull);
    } finally {
      this.running -= 1;
      pull.secret.fill(0);
    }
  }
}

function pullError(reason: unknown, { address, port }: Pull): GbError {
  const what = `the lane to ${address} port ${port}`;
  const error = GbError.from(withLaneStatus(reason, what));
  const { lane } = error.details;
  // It is the other feeder that took its ticket back; nothing is wrong with this one's lease.
  if (lane !== 'REFUSED' && lane !== 'REVOKED') return error;
  return new GbError('FEEDER_UNREACHABLE', error.rawMessage, { details: error.details });
}
