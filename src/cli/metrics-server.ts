import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { LacunaError, messageOf } from '../errors.js';
import { collectMigrationMetrics } from '../metrics.js';
import { formatEndpoint, type HostPort } from './units.js';

/** Serves the metrics of this process's migrations to whoever asks. */
export interface MetricsServer {
  /** Where it listens: with the port that the system has chosen, if it was left to it. */
  readonly endpoint: HostPort;
  /** Ends it, with all its connections. */
  close(): Promise<void>;
}

/** Scrapes at the same time: a Prometheus and its twin, and somebody who looks. */
const MOST_CONNECTIONS = 16;
const MOST_HEADER_BYTES = 8 * 1024;
const MOST_HEADERS = 64;
/** A request has this long to come, and its answer to go. */
const PATIENCE_MS = 5000;

/**
 * Answers `GET /metrics` at `endpoint` with the metrics of `lacuna/metrics`, from now on, and keeps no process alive.
 * Everyone who can connect may read them. A connection is for one request: there is none to keep open and none to flood.
 *
 * Throws INVALID_ARGUMENT if it can't listen there, or if prom-client, which is an optional peer dependency, is missing.
 */
export async function serveMetrics(
  endpoint: HostPort,
  load: () => Promise<typeof import('prom-client')> = () => import('prom-client'),
): Promise<MetricsServer> {
  const promClient = await loaded(load);
  const registry = new promClient.Registry();
  const stop = collectMigrationMetrics(promClient, { registry });
  const server = createServer(
    {
      maxHeaderSize: MOST_HEADER_BYTES,
      headersTimeout: PATIENCE_MS,
      requestTimeout: PATIENCE_MS,
      connectionsCheckingInterval: PATIENCE_MS / 5,
    },
    (request, response) => {
      void answer(request, response, async () => ({
        type: registry.contentType,
        text: await registry.metrics(),
      }));
    },
  );
  server.maxConnections = MOST_CONNECTIONS;
  server.maxHeadersCount = MOST_HEADERS;
  server.setTimeout(2 * PATIENCE_MS); // destroys a socket on which nothing moves, in either direction
  try {
    await listening(server, endpoint);
  } catch (thrown) {
    stop();
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `--metrics ${formatEndpoint(endpoint)}: can't listen there (${messageOf(thrown)}); give another address or port`,
      { cause: thrown },
    );
  }
  server.unref();
  return {
    endpoint: { host: endpoint.host, port: (server.address() as AddressInfo).port },
    close: () =>
      new Promise((done) => {
        stop();
        server.close(() => done());
        server.closeAllConnections();
      }),
  };
}

async function loaded(
  load: () => Promise<typeof import('prom-client')>,
): Promise<typeof import('prom-client')> {
  try {
    return await load();
  } catch (cause) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      '--metrics needs prom-client, which lacuna does not bring along: npm install prom-client@15',
      { cause },
    );
  }
}

function listening(server: Server, { host, port }: HostPort): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host, port, exclusive: true }, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

async function answer(
  { method, url = '' }: IncomingMessage,
  response: ServerResponse,
  scrape: () => Promise<{ readonly type: string; readonly text: string }>,
): Promise<void> {
  const say = (status: number, text: string, type = 'text/plain; charset=utf-8'): void => {
    response.shouldKeepAlive = false;
    response.writeHead(status, {
      'content-type': type,
      'content-length': Buffer.byteLength(text),
      'cache-control': 'no-store',
    });
    response.end(method === 'HEAD' ? undefined : text);
  };
  if (url.split('?', 1)[0] !== '/metrics') {
    say(404, 'There is nothing here but /metrics.\n');
  } else if (method !== 'GET' && method !== 'HEAD') {
    response.setHeader('allow', 'GET, HEAD');
    say(405, 'Metrics can be read, and that is all.\n');
  } else {
    try {
      const { type, text } = await scrape();
      say(200, text, type);
    } catch (thrown) {
      say(500, `The metrics can't be read: ${messageOf(thrown)}\n`);
    }
  }
}
