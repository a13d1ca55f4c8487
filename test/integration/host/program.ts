// SPDX-License-Identifier: Apache-2.0
// A program of its own process that attaches in raw bytes, so that it can be killed: HELLO, then
// what it was told.
import { spawn, type ChildProcess } from 'node:child_process';
import * as abi from '../../../host/shim/abi.js';
import { ARENA_BASE, ARENA_BYTES } from './shim-peer.js';

/** Fills its pid into HELLO, sends each message after the answer to the last. */
const SOURCE = `
import { connect } from 'node:net';
const messages = process.env.GB_MESSAGES.split(',').map((text) => Buffer.from(text, 'hex'));
messages[0].writeUInt32LE(process.pid, 16 + 32);
const socket = connect(process.env.GB_SOCKET, () => socket.write(messages.shift()));
socket.on('data', () => {
  if (messages.length > 0) socket.write(messages.shift());
  else process.stdout.write('ready');
});
socket.on('error', () => undefined);
setInterval(() => undefined, 1000);
`;

/** Starts it and waits until every message was answered. Ownership: the caller ends it. */
export async function startProgram(
  socketPath: string,
  requests: readonly (readonly [type: number, payload: Buffer])[],
): Promise<ChildProcess> {
  const hello = abi.gbHello.encode({
    magic: abi.ABI_MAGIC,
    abi_major: abi.ABI_MAJOR,
    abi_minor: abi.ABI_MINOR,
    features: abi.FEATURE_GATED,
    attachment_id: new Uint8Array(16).fill(7),
    pid: 0,
    reserved: 0,
    arena_base: ARENA_BASE,
    arena_bytes: ARENA_BYTES,
    vram_budget_bytes: abi.UINT64_MAX,
    ram_budget_bytes: abi.UINT64_MAX,
    held_bytes: [0n, 0n, 0n, 0n, 0n],
    device_total_bytes: 1n << 30n,
    device_name: 'a GPU',
    device_uuid: new Uint8Array(16),
    command: 'a program',
    features_required: 0n,
  });
  const messages = [[abi.Msg.HELLO, hello] as const, ...requests].map(([type, payload], index) =>
    abi.encodeFrame(type, 0, BigInt(index + 1), payload).toString('hex'),
  );
  const child = spawn(process.execPath, ['--input-type=module', '-e', SOURCE], {
    env: { ...process.env, GB_SOCKET: socketPath, GB_MESSAGES: messages.join(',') },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await new Promise<void>((resolve, reject) => {
    child.stdout.once('data', () => resolve());
    child.once('exit', () => reject(new Error('the program ended')));
  });
  return child;
}

export function grant(tier: number, bytes: number): readonly [number, Buffer] {
  return [abi.Msg.GRANT, abi.gbBudget.encode({ tier, reserved: 0, bytes: BigInt(bytes) })];
}

export function place(offset: number, length: number): readonly [number, Buffer] {
  return [
    abi.Msg.PLACE,
    abi.gbPlaceRequest.encode({
      offset: BigInt(offset),
      length: BigInt(length),
      lane: 0,
      reserved: 0,
    }),
  ];
}
