// SPDX-License-Identifier: Apache-2.0
// How fast all cores together read RAM: every core searches memory of its own for a byte that is not
// there (memchr reads as fast as memory gives).
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { MIB } from '../../proto/base/units.js';

const BLOCK_BYTES = 64 * MIB;
const BLOCK_BYTES_MIN = 8 * MIB;
const WORKERS_MAX = 64;
const MEASURE_MS = 150;
const TIMEOUT_MS = 10_000;

/** Reads for MEASURE_MS once all are told to begin. */
const WORKER = `
const { parentPort, workerData } = require('node:worker_threads');
const block = Buffer.alloc(workerData.bytes, 2);
parentPort.postMessage('ready');
parentPort.once('message', () => {
  const begin = performance.now();
  let blocks = 0;
  do blocks -= block.indexOf(1);
  while (performance.now() - begin < workerData.ms);
  parentPort.postMessage((blocks * workerData.bytes * 1000) / (performance.now() - begin));
});`;

/** Bytes per second. `memoryBytes`: what may be taken for a moment. */
export async function measureRamRead(
  memoryBytes: number,
): Promise<{ rate: number; cores: number }> {
  const cores = availableParallelism();
  const count = Math.min(cores, WORKERS_MAX);
  const bytes = Math.max(BLOCK_BYTES_MIN, Math.min(BLOCK_BYTES, Math.floor(memoryBytes / count)));
  const workers = Array.from(
    { length: count },
    () => new Worker(WORKER, { eval: true, workerData: { bytes, ms: MEASURE_MS } }),
  );
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  try {
    await Promise.all(workers.map((worker) => nextMessage(worker, timeout)));
    const rates = workers.map((worker) => nextMessage(worker, timeout));
    for (const worker of workers) worker.postMessage('go');
    const sum = (await Promise.all(rates)).reduce<number>((total, each) => total + Number(each), 0);
    return { rate: sum, cores };
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

function nextMessage(worker: Worker, signal: AbortSignal): Promise<unknown> {
  return new Promise((resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    worker.once('message', resolve);
    worker.once('error', reject);
  });
}
