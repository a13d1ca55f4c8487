// SPDX-License-Identifier: Apache-2.0
// `greenboost metrics`: an exporter for Prometheus. It is a process of its own that asks the daemons over their private
// sockets, so that no HTTP is parsed where keys are. It listens on loopback only.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { Counter, Gauge, Registry } from 'prom-client';
import { GbError } from '../../../proto/base/errors.js';
import { METRICS } from '../../../proto/settings/host.js';
import { settle } from '../../../proto/settings/settle.js';
import { withAgent, withFeed } from '../../control/client.js';
import { AGENT_METRICS, FEED_METRICS, type Metric } from '../../model/metrics.js';
import { feedStatusJson } from '../../model/feed-status.js';
import { snapshotJson } from '../../model/snapshot.js';
import { note, writeOut } from '../output.js';
import { flagsOf, settingsFile, type GivenOptions } from '../settings.js';

/** As commander gives them: the options of METRICS, and these. */
export interface MetricsOptions extends GivenOptions {
  readonly config?: string;
  readonly once?: boolean;
}

const LISTEN_DEFAULT = '127.0.0.1:9742';
const CALL_TIMEOUT_MS = 3_000;
const REQUESTS_AT_ONCE_MAX = 8;
const HEADERS_TIMEOUT_MS = 5_000;
const LOOPBACK = /^(127(?:\.\d{1,3}){3}|\[?::1\]?|localhost)$/;

function parseListen(text: string): { host: string; port: number } {
  const at = text.lastIndexOf(':');
  const [host, port] = [text.slice(0, at), Number(text.slice(at + 1))];
  if (at < 1 || !Number.isInteger(port) || port < 0 || port > 65_535)
    throw new GbError('INVALID_ARGUMENT', `--listen "${text.slice(0, 80)}": write 127.0.0.1:9742`);
  if (!LOOPBACK.test(host))
    throw new GbError(
      'INVALID_ARGUMENT',
      `--listen ${host}: metrics are served on loopback only; put a proxy with authentication before them`,
    );
  return { host: host.replace(/^\[|\]$/g, ''), port };
}

function add<From>(
  registry: Registry,
  metrics: readonly Metric<From>[],
  from: From | undefined,
): void {
  if (from === undefined) return;
  for (const { name, kind, help, labels, samples } of metrics) {
    const settings = { name, help, labelNames: [...labels], registers: [registry] };
    if (kind === 'gauge') {
      const gauge = new Gauge(settings);
      for (const [values, value] of samples(from)) gauge.set(values, value);
    } else {
      const counter = new Counter(settings);
      for (const [values, value] of samples(from)) counter.inc(values, value);
    }
  }
}

/** What the daemons say now, in Prometheus's text format. A daemon that does not run has `greenboost_daemon_up` 0. */
export async function metricsText(): Promise<string> {
  const options = { timeoutMs: CALL_TIMEOUT_MS };
  const [agent, feeder] = await Promise.all([
    withAgent((client) => client.getStatus({}, options)).then(snapshotJson, () => undefined),
    withFeed((client) => client.getFeedStatus({}, options)).then(feedStatusJson, () => undefined),
  ]);
  const registry = new Registry();
  const up = new Gauge({
    name: 'greenboost_daemon_up',
    help: '1: the daemon of this user answers',
    labelNames: ['daemon'],
    registers: [registry],
  });
  up.set({ daemon: 'agent' }, Number(agent !== undefined));
  up.set({ daemon: 'feeder' }, Number(feeder !== undefined));
  add(registry, AGENT_METRICS, agent);
  add(registry, FEED_METRICS, feeder);
  return registry.metrics();
}

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (request.method !== 'GET' || request.url?.split('?')[0] !== '/metrics') {
    response.writeHead(404, { 'content-type': 'text/plain' }).end('GET /metrics\n');
    return;
  }
  try {
    const text = await metricsText();
    response.writeHead(200, { 'content-type': Registry.PROMETHEUS_CONTENT_TYPE }).end(text);
  } catch (reason) {
    response
      .writeHead(500, { 'content-type': 'text/plain' })
      .end(`${GbError.from(reason).rawMessage}\n`);
  }
}

function listen(server: Server, place: { host: string; port: number }): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (reason: NodeJS.ErrnoException) =>
      reject(
        new GbError(
          'WRONG_STATE',
          `cannot listen on ${place.host} port ${place.port}: ${reason.code}`,
          {
            cause: reason,
            details: {
              hint: 'something else has the port: choose another with --listen 127.0.0.1:PORT',
            },
          },
        ),
      ),
    );
    server.listen(place, resolve);
  });
}

/** Serves until SIGTERM or SIGINT; with `once` prints the text and ends. */
export async function serveMetrics(options: MetricsOptions): Promise<void> {
  if (options.once) {
    writeOut(await metricsText());
    return;
  }
  const flags = flagsOf(METRICS, options);
  const file = await settingsFile('host', options.config);
  const { listen: where } = settle(METRICS, { flags, env: process.env, file }).values;
  const place = parseListen(where ?? LISTEN_DEFAULT);
  const server = createServer((request, response) => void answer(request, response));
  server.maxConnections = REQUESTS_AT_ONCE_MAX;
  server.headersTimeout = HEADERS_TIMEOUT_MS;
  server.requestTimeout = HEADERS_TIMEOUT_MS;
  await listen(server, place);
  const { address, port } = server.address() as { address: string; port: number };
  note(`metrics at http://${address.includes(':') ? `[${address}]` : address}:${port}/metrics`);
  await new Promise<void>((resolve) => {
    process.once('SIGTERM', resolve);
    process.once('SIGINT', resolve);
  });
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
}
