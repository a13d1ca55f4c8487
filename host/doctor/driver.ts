// SPDX-License-Identifier: Apache-2.0
// The driver, and what the shim needs of it: tried in processes of their own, because a driver may crash on it.
import { spawn } from 'node:child_process';
import { listGpus, type Gpu } from '../../driver/cuda/memory.js';
import { driverEnv, type GpuDriver } from '../../driver/library.js';
import { GbError } from '../../proto/base/errors.js';
import { nativePath } from '../../proto/base/paths.js';
import { formatBytes } from '../../proto/base/units.js';
import { ARENA_WINDOW_BASE } from '../shim/abi.js';
import { finder, type Finding } from './finding.js';

type Env = Readonly<Record<string, string | undefined>>;

/** cuFuncGetParamInfo is there from here on (docs/architecture.md). */
const DRIVER_VERSION_MIN = 12040;
const ARENA_BYTES_DEFAULT = 1n << 40n;
const PROBE_TIMEOUT_MS = 20_000;
/** What gb-probe ends with when the addresses are taken. */
const PROBE_TAKEN = 3;

interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stderr: string;
}

/** Runs a child to its end, or kills it after PROBE_TIMEOUT_MS. */
function runChild(command: string, args: readonly string[], env: Env): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, [...args], {
      env: env as NodeJS.ProcessEnv,
      stdio: ['ignore', 'ignore', 'pipe'],
      timeout: PROBE_TIMEOUT_MS,
      killSignal: 'SIGKILL',
    });
    let stderr = '';
    child.stderr.on('data', (chunk: Buffer) => (stderr = (stderr + String(chunk)).slice(-4096)));
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, stderr }));
  });
}

/** The program loader takes the library: a child that does nothing is started with it. */
export async function checkShim(env: Env): Promise<Finding[]> {
  const find = finder('shim', 'shim');
  let path: string;
  try {
    path = nativePath('lib', 'libgreenboost_cuda.so');
  } catch (reason) {
    return [find.failure(GbError.from(reason).rawMessage, 'run `make natives` in the checkout')];
  }
  const child = await runChild('/bin/true', [], {
    PATH: env['PATH'],
    LD_PRELOAD: path,
    GREENBOOST_DISABLE: '1',
  });
  if (child.code === 0 && child.stderr === '') return [find.ok('libgreenboost_cuda.so loads')];
  const why = child.stderr.trim() || `ended with ${child.signal ?? child.code}`;
  return [find.failure(`the shim does not load: ${why}`, 'build it on this machine: make natives')];
}

function versionText(version: number): string {
  return `${Math.trunc(version / 1000)}.${Math.trunc((version % 1000) / 10)}`;
}

async function hostMemory(gpu: 'cuda' | 'sim', env: Env): Promise<Finding> {
  const find = finder('host_numa', 'migration');
  const child = await runChild(nativePath('bin', 'gb-probe'), ['0'], driverEnv(gpu, env));
  if (child.code === 0) return find.ok('host memory maps at device addresses (HOST_NUMA, tried)');
  const how = child.signal ? `the driver crashed on it (${child.signal})` : 'the driver refuses it';
  return find.failure(
    `host memory cannot be mapped at device addresses: ${how}`,
    'update the NVIDIA driver (r580 works); until then allocations that overflow stay in RAM as a whole',
  );
}

async function arena(gpu: 'cuda' | 'sim', env: Env): Promise<Finding> {
  const find = finder('arena', 'migration');
  const base = env['GREENBOOST_ARENA_BASE'] ?? `0x${ARENA_WINDOW_BASE.toString(16)}`;
  const args = ['arena', base, `0x${ARENA_BYTES_DEFAULT.toString(16)}`];
  const child = await runChild(nativePath('bin', 'gb-probe'), args, driverEnv(gpu, env));
  if (child.code === 0)
    return find.ok(`1 TiB of addresses at ${base} is free (reserved and given back)`);
  const what =
    child.code === PROBE_TAKEN ? 'is taken' : `cannot be tried (${child.signal ?? child.code})`;
  return find.failure(
    `the address range at ${base} ${what}`,
    'something else in every process maps memory there: look at LD_PRELOAD and /etc/ld.so.preload, or ' +
      'choose another place with GREENBOOST_ARENA_BASE=0x510000000000',
  );
}

function describe(gpus: readonly Gpu[]): Finding[] {
  return gpus.map(({ index, name, totalBytes, vmm, computeCapability, simulated }) => {
    const find = finder('gpu', 'migration');
    const capability = `${Math.trunc(computeCapability / 10)}.${computeCapability % 10}`;
    const text = `GPU ${index}: ${name}, ${formatBytes(totalBytes)}, ${capability}${simulated ? ', simulated' : ''}`;
    return vmm
      ? find.ok(text)
      : find.failure(
          `${text}: no virtual memory management`,
          'nothing can move on this GPU: it is too old, or hidden by a container or WSL2',
        );
  });
}

/** The driver, its age, each GPU, and the two things the shim lives on. */
export async function checkDriver(gpu: GpuDriver, env: Env): Promise<Finding[]> {
  const find = finder('driver', 'shim');
  if (gpu === 'none') return [find.skipped('no GPU is wanted (GREENBOOST_GPU=none)')];
  try {
    const { driverVersion, gpus } = await listGpus(gpu);
    const version = find.ok(`CUDA driver for CUDA ${versionText(driverVersion)}`);
    const old = find.failure(
      `the driver knows CUDA ${versionText(driverVersion)}; ${versionText(DRIVER_VERSION_MIN)} is needed`,
      'update the NVIDIA driver (550 or newer)',
    );
    if (gpus.length === 0)
      return [
        find.failure('the driver shows no GPU', 'is CUDA_VISIBLE_DEVICES empty? see nvidia-smi'),
      ];
    const verified = [await hostMemory(gpu, env), await arena(gpu, env)];
    return [driverVersion >= DRIVER_VERSION_MIN ? version : old, ...describe(gpus), ...verified];
  } catch (reason) {
    const error = GbError.from(reason);
    const fix =
      error.code === 'NOT_FOUND'
        ? 'install the NVIDIA driver (nvidia-smi must work), or try without a GPU: GREENBOOST_GPU=sim'
        : 'see dmesg and nvidia-smi; a reboot after a driver update helps';
    return [find.failure(error.rawMessage, fix)];
  }
}
