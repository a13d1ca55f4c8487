// SPDX-License-Identifier: Apache-2.0
// A TCP proxy that records what a client sends and can cut the stream or flip one bit of it.
import { connect, createServer, type Socket } from 'node:net';

export interface FaultyWireOptions {
  /** Ends both sides after so many bytes of `side`. */
  readonly cutAfter?: number;
  /** Flips the lowest bit of this byte of `side`. */
  readonly flipAt?: number;
  readonly side: 'client' | 'server';
}

export interface FaultyWire {
  readonly host: string;
  readonly port: number;
  /** What the client has sent so far. */
  sent(): Buffer;
  stop(): Promise<void>;
}

export async function openFaultyWire(
  target: { host: string; port: number },
  options: FaultyWireOptions = { side: 'client' },
): Promise<FaultyWire> {
  const sent: Buffer[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(target.port, target.host);
    const end = (): void => {
      client.destroy();
      upstream.destroy();
    };
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', end).on('close', end);
    }
    client.on('data', (chunk: Buffer) => sent.push(chunk));
    forward(client, upstream, options.side === 'client' ? options : undefined, end);
    forward(upstream, client, options.side === 'server' ? options : undefined, end);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    host: '127.0.0.1',
    port: (server.address() as { port: number }).port,
    sent: () => Buffer.concat(sent),
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}

function forward(
  from: Socket,
  to: Socket,
  fault: FaultyWireOptions | undefined,
  end: () => void,
): void {
  let passed = 0;
  from.on('data', (chunk: Buffer) => {
    let part = Buffer.from(chunk);
    const { cutAfter, flipAt } = fault ?? {};
    if (flipAt !== undefined && flipAt >= passed && flipAt < passed + part.length) {
      part[flipAt - passed] = (part[flipAt - passed] as number) ^ 1;
    }
    const cut = cutAfter !== undefined && passed + part.length >= cutAfter;
    if (cut) part = part.subarray(0, cutAfter - passed);
    passed += part.length;
    to.write(part, () => {
      if (cut) end();
    });
  });
}
