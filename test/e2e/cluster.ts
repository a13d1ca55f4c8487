// SPDX-License-Identifier: Apache-2.0
// Three machines ready to work: two feeders that lend RAM, and a host with a small simulated GPU
// connected to both.
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { attachmentOf, Machine, MIB, PROGRAMS, waitFor, type Running } from './machine.js';
import { createNetwork, type Network } from './namespaces.js';
import type { AttachmentJson } from '../../tui/model/attachments.js';

export const VRAM_BUDGET_BYTES = 64 * MIB;
export const RAM_BUDGET_BYTES = 64 * MIB;
export const WORKING_SET_BYTES = 192 * MIB;
export const BUFFER_BYTES = 8 * MIB;
const PORT = '9740';

export interface Cluster {
  readonly network: Network;
  readonly host: Machine;
  readonly feeders: readonly Machine[];
  /** The feeder daemons, in the order of `feeders`. */
  readonly daemons: Running[];
  startFeeder(index: number): Promise<void>;
  /** The workload under `greenboost run`, three times its VRAM. */
  startWorkload(options?: readonly string[]): Running;
  /** The workload's attachment once some of its bytes live on feeders. */
  spilled(minimumBytes?: number): Promise<AttachmentJson>;
  close(): Promise<void>;
}

export async function createCluster(): Promise<Cluster> {
  const network = await createNetwork(2);
  const gpu = `e2e-${randomBytes(4).toString('hex')}`;
  const host = new Machine('host', network.host, {
    GREENBOOST_GPU: 'sim',
    GBSIM_GPU: gpu,
    GBSIM_VRAM: '256MiB',
  });
  const feeders = network.feeders.map(
    (namespace, index) => new Machine(`feeder${index + 1}`, namespace),
  );
  const daemons: Running[] = [];
  const startFeeder = async (index: number): Promise<void> => {
    const options = ['--ram', '256MiB', '--gpu', 'none', '--port', PORT];
    daemons[index] = await (feeders[index] as Machine).startFeeder(options);
  };
  const close = async (): Promise<void> => {
    await host.close();
    for (const feeder of feeders) await feeder.close();
    network.close();
  };
  try {
    for (const [index, feeder] of feeders.entries()) {
      await startFeeder(index);
      await host.connect(feeder, PORT);
    }
  } catch (error) {
    await close();
    throw error;
  }
  return {
    network,
    host,
    feeders,
    daemons,
    startFeeder,
    startWorkload: (options = []) =>
      host.greenboost([
        'run',
        '--gpu',
        'sim',
        '--vram-budget',
        String(VRAM_BUDGET_BYTES),
        '--ram-budget',
        String(RAM_BUDGET_BYTES),
        '--overcommit',
        'gated',
        '--',
        join(PROGRAMS, 'gb_workset'),
        '--bytes',
        String(WORKING_SET_BYTES),
        '--buffer-bytes',
        String(BUFFER_BYTES),
        ...options,
      ]),
    spilled: (minimumBytes = BUFFER_BYTES) =>
      waitFor('the program keeps bytes on feeders', async () =>
        attachmentOf(await host.status(), (a) => a.feederRamUsedBytes >= minimumBytes),
      ),
    close,
  };
}
