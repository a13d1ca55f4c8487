// SPDX-License-Identifier: Apache-2.0
// A feeder that lends VRAM, on the simulated driver: VRAM as device chunks, RAM as chunks the GPU
// reads in place.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { listGpus } from '../../../driver/cuda/memory.js';
import { probeMemory } from '../../../driver/executor/probe.js';
import { listGpuLoad } from '../../../driver/nvml/load.js';
import { listNvmlMemory } from '../../../driver/nvml/memory.js';
import { useSimulatedGpu } from '../simulated-gpu.js';
import {
  codeOf,
  executorsOf,
  GPU,
  MIB,
  openFeeder,
  pattern,
  RAM,
  until,
  type TestFeeder,
} from './harness.js';

let feeder: TestFeeder;

beforeAll(async () => {
  useSimulatedGpu();
  feeder = await openFeeder({ gpu: 'sim', vramBytes: new Map([[0, 128 * MIB]]) });
});
afterAll(() => feeder.stop());

test('the bindings see the GPU as driver and NVML tell it', async () => {
  const { driverVersion, gpus } = await listGpus('sim');
  expect(driverVersion).toBeGreaterThanOrEqual(12_040);
  expect(gpus).toHaveLength(1);
  expect(gpus[0]).toMatchObject({
    index: 0,
    totalBytes: 512 * MIB,
    vmm: true,
    hostNumaVmm: true,
    simulated: true,
  });
  expect(gpus[0]!.uuid).toMatch(/^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  const [memory] = await listNvmlMemory('sim');
  expect(memory).toMatchObject({ uuid: gpus[0]!.uuid, totalBytes: 512 * MIB });
  expect(memory!.usedBytes + memory!.freeBytes).toBe(512 * MIB);
  expect(gpus[0]!.freeBytes).toBe(memory!.freeBytes);
  // As of a simulated GPU that somebody has open: this process.
  const [load] = await listGpuLoad('sim');
  expect(load).toEqual({
    ...memory,
    percent: 50,
    temperatureCelsius: 55,
    powerMilliwatts: 200_000,
  });
});

test('the probe measures RAM and GPU in a process of its own, within its time', async () => {
  const begin = Date.now();
  const probe = await probeMemory({ gpu: 'sim', gpuIndex: 0 });
  expect(Date.now() - begin).toBeLessThan(5_000);
  expect(probe.gpus[0]).toMatchObject({
    total_bytes: 512 * MIB,
    vmm: true,
    host_numa_vmm: true,
    error: null,
  });
  for (const figure of ['h2d', 'd2h', 'vram_copy', 'host_numa_read'] as const) {
    expect(probe.gpus[0]![`${figure}_bytes_per_second`]).toBeGreaterThan(1e6);
  }
  expect(probe.ram.copy_bytes_per_second).toBeGreaterThan(1e6);
  expect((await probeMemory({ gpu: 'none' })).gpus).toEqual([]);
  expect((await probeMemory({ gpu: 'sim', gpuIndex: 9 })).gpus[0]!.error).toMatch(
    /CUDA_ERROR_INVALID_DEVICE/,
  );
});

test('bytes of VRAM and RAM come back, zeroed first, each counted on its device', async () => {
  const host = await feeder.connect();
  const lease = await host.lease({ ram: 16 * MIB, gpu: 32 * MIB });
  for (const [device, offset] of [
    [GPU, 0],
    [RAM, 64 * MIB],
  ] as const) {
    const length = 8 * MIB;
    const locked = await host.allocate(lease, offset, length, device);
    expect(Number(locked)).toBe(device === RAM ? length : 0); // The driver pins HOST_NUMA chunks.
    expect((await host.read(lease, offset, length)).every((byte) => byte === 0)).toBe(true);
    const data = pattern(length - 100, offset + 5);
    await host.write(lease, offset + 50, data);
    expect((await host.read(lease, offset + 50, data.length)).equals(data)).toBe(true);
    expect((await host.account(device)).used).toBe(length);
  }
  const { devices } = (await feeder.control().getFeedStatus({})).stats!;
  expect(devices.map(({ name, simulated }) => [name, simulated])).toEqual([
    ['RAM', false],
    [(await listGpus('sim')).gpus[0]!.name, true],
  ]);
  await host.free(lease, 0, 8 * MIB, GPU);
  await host.allocate(lease, 0, 8 * MIB, GPU);
  expect((await host.read(lease, 0, 8 * MIB)).every((byte) => byte === 0)).toBe(true);
  const [memory] = await listNvmlMemory('sim');
  expect(memory!.usedBytes).toBeGreaterThanOrEqual(8 * MIB);
  await host.client.releaseLease({ lease });
  expect((await host.account(GPU)).used).toBe(0);
  await until('the GPU is empty', async () => (await listNvmlMemory('sim'))[0]!.usedBytes === 0);
});

test('a read may cross from VRAM into RAM, and misses no byte', async () => {
  const host = await feeder.connect();
  const lease = await host.lease({ ram: 4 * MIB, gpu: 4 * MIB });
  await host.allocate(lease, 0, 4 * MIB, GPU);
  await host.allocate(lease, 4 * MIB, 4 * MIB, RAM);
  const data = pattern(2 * MIB, 6);
  await host.write(lease, 3 * MIB, data);
  expect((await host.read(lease, 3 * MIB, data.length)).equals(data)).toBe(true);
  await host.client.releaseLease({ lease });
});

test('VRAM that others use is refused as no memory, and the account is as before', async () => {
  const tight = await openFeeder({ gpu: 'sim', vramBytes: new Map([[0, 400 * MIB]]) });
  try {
    const host = await tight.connect();
    const greedy = await feeder.connect();
    const taken = await greedy.lease({ gpu: 128 * MIB });
    await greedy.allocate(taken, 0, 128 * MIB, GPU);
    const lease = await host.lease({ gpu: 400 * MIB });
    expect(await codeOf(host.allocate(lease, 0, 400 * MIB, GPU))).toBe('CAPACITY_EXHAUSTED');
    expect(await host.account(GPU)).toEqual({ capacity: 400 * MIB, leased: 400 * MIB, used: 0 });
    expect(await codeOf(host.allocate(lease, 0, 64 * MIB, GPU))).toBe('OK');
    await greedy.client.releaseLease({ lease: taken });
  } finally {
    await tight.stop();
  }
});

test('a killed executor gives its VRAM back', async () => {
  const host = await feeder.connect();
  const before = new Set(executorsOf(process.pid));
  const lease = await host.lease({ gpu: 64 * MIB });
  const [pid] = executorsOf(process.pid).filter((candidate) => !before.has(candidate));
  await host.allocate(lease, 0, 64 * MIB, GPU);
  process.kill(pid!, 'SIGKILL');
  await until('the account is closed', async () => (await host.account(GPU)).leased === 0);
  expect(await codeOf(host.read(lease, 0, 4))).toBe('DATA_LOSS');
  const next = await host.lease({ gpu: 128 * MIB });
  expect(await codeOf(host.allocate(next, 0, 128 * MIB, GPU))).toBe('OK');
  await host.client.releaseLease({ lease: next });
});

test('a lease asking for the GPU of a feeder that lends none is refused', async () => {
  const plain = await openFeeder();
  try {
    const host = await plain.connect();
    expect(await codeOf(host.lease({ gpu: 2 * MIB }))).toBe('NOT_FOUND');
  } finally {
    await plain.stop();
  }
});
