// SPDX-License-Identifier: Apache-2.0
// Carries out what the screen asks the agent for: plans, actions, explanations. Every answer is a message; nothing is
// thrown, and nothing outlives the screen.
import { systemClock } from '../../proto/base/clock.js';
import { GbError } from '../../proto/base/errors.js';
import { formatBytes } from '../../proto/base/units.js';
import { explainJson } from '../model/dispatch.js';
import { planJson, WIRE_ACTIONS } from '../model/plans.js';
import type { Message } from '../model/reducer.js';
import { SCHEMA_VERSION, snapshotJson } from '../model/snapshot.js';
import type { Request, Target } from '../model/state.js';
import { messagesOf, withAgent, type AgentClient } from './client.js';

const CALL_TIMEOUT_MS = 5_000;
/** An action that has not answered by then is under way: its dialog closes. */
const BEGUN_AFTER_MS = 500;

type Act = Extract<Request, { t: 'act' }>;
type Call = { readonly signal: AbortSignal };

/** How the agent is told which feeder: by what is unique. */
function feederOf(target: Target): string {
  return target.kind === 'feeder' ? target.id : '';
}

function pidOf(target: Target): number {
  return target.kind === 'process' ? target.pid : 0;
}

async function drain(
  client: AgentClient,
  act: Act,
  call: Call,
  begun: () => void,
): Promise<string> {
  const request = { feeder: feederOf(act.target), epoch: BigInt(act.epoch) };
  let movedBytes = 0n;
  for await (const status of messagesOf(client.drain(request, call))) {
    begun();
    movedBytes = status.movedBytes;
  }
  return `is empty, ${formatBytes(movedBytes)} moved; nothing new is placed there until it is resumed`;
}

async function disconnect(client: AgentClient, act: Act, call: Call): Promise<string> {
  const { target, force, epoch } = act;
  const request = { feeder: feederOf(target), force, epoch: BigInt(epoch) };
  const { movedBytes, lostBytes } = await client.disconnect(request, call);
  const lost = lostBytes > 0n ? `, ${formatBytes(lostBytes)} lost` : '';
  return `is disconnected; ${formatBytes(movedBytes)} moved${lost}`;
}

async function evict(client: AgentClient, act: Act, call: Call): Promise<string> {
  const { target, bytes, epoch } = act;
  const request = { pid: pidOf(target), bytes: BigInt(bytes), epoch: BigInt(epoch) };
  const { evictedBytes, vramUsedBytes } = await client.evict(request, call);
  return `${formatBytes(evictedBytes)} left VRAM, ${formatBytes(vramUsedBytes)} are there`;
}

/** What one action came to, as the end of a sentence about its target. @throws GbError as the agent said. */
async function outcome(
  client: AgentClient,
  act: Act,
  call: Call,
  begun: () => void,
): Promise<string> {
  const feeder = { feeder: feederOf(act.target), epoch: BigInt(act.epoch) };
  const short = { ...call, timeoutMs: CALL_TIMEOUT_MS };
  switch (act.action) {
    case 'drain':
      return drain(client, act, call, begun);
    case 'disconnect':
      return disconnect(client, act, call);
    case 'evict':
      return evict(client, act, call);
    case 'pause':
      await client.pause(feeder, short);
      return 'is paused: nothing new is placed there';
    case 'resume':
      await client.resume(feeder, short);
      return 'takes placements again';
  }
}

export class Requests {
  private readonly running = new Map<number, AbortController>();
  private readonly stopped = new AbortController();

  constructor(private readonly onMessage: (message: Message) => void) {}

  /** Begins one request; its answers come as messages. */
  perform(request: Request): void {
    if (request.t === 'cancel') return this.running.get(request.id)?.abort();
    if (request.t === 'act') return void this.act(request);
    void this.ask(request);
  }

  /** Ends all that is under way; no message comes after it. */
  close(): void {
    this.stopped.abort();
    for (const controller of this.running.values()) controller.abort();
  }

  private tell(message: Message): void {
    if (!this.stopped.signal.aborted) this.onMessage(message);
  }

  private async act(act: Act): Promise<void> {
    const { id, target } = act;
    const controller = new AbortController();
    this.running.set(id, controller);
    let told = false;
    const begun = (): void => {
      if (!told) this.tell({ t: 'begun', id });
      told = true;
    };
    const timer = systemClock.after(BEGUN_AFTER_MS, begun);
    try {
      const { signal } = controller;
      const text = await withAgent((client) => outcome(client, act, { signal }, begun));
      this.tell({ t: 'done', id, text: `${target.name} ${text}` });
    } catch (reason) {
      this.tell(refusal(id, reason));
    } finally {
      timer.cancel();
      this.running.delete(id);
    }
  }

  private async ask(request: Exclude<Request, { t: 'act' | 'cancel' }>): Promise<void> {
    const call = { timeoutMs: CALL_TIMEOUT_MS, signal: this.stopped.signal };
    try {
      this.tell(await withAgent((client) => answer(client, request, call)));
    } catch (reason) {
      const text = GbError.from(reason).rawMessage;
      if (request.t === 'plan') this.tell(refusal(request.id, reason));
      else if (request.t === 'explain')
        this.tell({ t: 'explained', pid: request.pid, explain: text });
    }
  }
}

async function answer(
  client: AgentClient,
  request: Exclude<Request, { t: 'act' | 'cancel' }>,
  call: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<Message> {
  if (request.t === 'refresh') {
    const snapshot = snapshotJson(await client.getStatus({}, call));
    return { t: 'snapshot', snapshot, atMs: systemClock.nowMs() };
  }
  if (request.t === 'explain') {
    const { pid } = request;
    const explain = explainJson(await client.explain({ pid }, call), SCHEMA_VERSION);
    return { t: 'explained', pid, explain };
  }
  const { id, action, target, bytes } = request;
  const plan = await client.plan(
    {
      action: WIRE_ACTIONS[action],
      feeder: feederOf(target),
      pid: pidOf(target),
      bytes: BigInt(bytes),
    },
    call,
  );
  return { t: 'planned', id, plan: planJson(plan, action) };
}

/** What the agent refused with, its advice included. */
function refusal(id: number, reason: unknown): Message {
  const error = GbError.from(reason);
  const hint = error.details['hint'];
  const text = typeof hint === 'string' ? `${error.rawMessage}; ${hint}` : error.rawMessage;
  return { t: 'refused', id, code: error.code, text };
}
