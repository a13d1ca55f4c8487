// SPDX-License-Identifier: Apache-2.0
// Bulk bytes cross one connection in one direction at a time. Node's HTTP/2 stops reading a socket
// while a write of its own waits for room (node_http2.cc, is_write_in_progress): with bulk both ways
// both ends can fill their send buffers and wait for each other for ever. So uploads run beside
// uploads and downloads beside downloads, in the order they came, and after a transfer that was cut
// short a round trip makes sure that nothing of it is still under way.

export type BulkDirection = 'upload' | 'download';

interface Waiting {
  readonly direction: BulkDirection;
  start(): void;
}

export class BulkGate {
  private readonly waiting: Waiting[] = [];
  private direction: BulkDirection | undefined;
  private activeCount = 0;

  /** At most `slots` transfers at once. `settle` is one round trip on the same connection; it must
   *  end by itself when the connection does. */
  constructor(
    private readonly slots: number,
    private readonly settle: () => Promise<unknown>,
  ) {}

  /** Runs `work` when its turn comes. Cancel: `work` watches its own signals; the turn always comes,
   *  since every transfer has a deadline. */
  async run<T>(direction: BulkDirection, work: () => Promise<T>): Promise<T> {
    await new Promise<void>((start) => {
      this.waiting.push({ direction, start });
      this.pump();
    });
    try {
      return await work();
    } catch (reason) {
      await this.settle().catch(() => undefined);
      throw reason;
    } finally {
      this.activeCount--;
      this.pump();
    }
  }

  private pump(): void {
    for (let next = this.waiting[0]; next && this.mayStart(next); next = this.waiting[0]) {
      this.waiting.shift();
      this.direction = next.direction;
      this.activeCount++;
      next.start();
    }
  }

  private mayStart({ direction }: Waiting): boolean {
    if (this.activeCount === 0) return true;
    return direction === this.direction && this.activeCount < this.slots;
  }
}
