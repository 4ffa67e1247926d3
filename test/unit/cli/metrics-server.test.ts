import { request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { afterEach, expect, it } from 'vitest';
import { type MetricsServer, serveMetrics } from '../../../src/cli/metrics-server.js';
import { IncomingObserver } from '../../../src/diagnostics.js';
import { isLacunaError } from '../../../src/errors.js';

const ANY_PORT = { host: '127.0.0.1', port: 0 };
const open: MetricsServer[] = [];

async function serve(): Promise<MetricsServer> {
  const server = await serveMetrics(ANY_PORT);
  open.push(server);
  return server;
}

afterEach(async () => {
  await Promise.all(open.splice(0).map((server) => server.close()));
});

interface Answer {
  readonly status: number | undefined;
  readonly headers: NodeJS.Dict<string | string[]>;
  readonly text: string;
}

function ask({ endpoint }: MetricsServer, path: string, method = 'GET', headers = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asked = request({ ...endpoint, path, method, headers }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        text += chunk;
      });
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, text }));
    });
    asked.on('error', reject);
    asked.end();
  });
}

/** Sends bytes as they are; resolves with all that came until the other end closed. */
function send({ endpoint }: MetricsServer, bytes: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket: Socket = connect(endpoint.port, endpoint.host, () => socket.write(bytes));
    let text = '';
    socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => {
      text += chunk;
    });
    socket.on('close', () => resolve(text));
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ECONNRESET') {
        reject(error);
      }
    });
  });
}

it('answers with what has happened since it began', async () => {
  const server = await serve();
  new IncomingObserver({ name: 'db', migration: '01', peer: '10.0.0.7:1' }, 4096, 1).end('started', () => ({
    bytes: 77,
    pages: 1,
    zeroPages: 0,
    filledPages: 0,
  }));
  const { status, headers, text } = await ask(server, '/metrics');
  expect(status).toBe(200);
  expect(headers['content-type']).toMatch(/^text\/plain; version=0\.0\.4/);
  expect(text).toContain('lacuna_incoming_bytes_total 77');
  expect(text).toContain('# TYPE lacuna_migrations_total counter');
  expect((await ask(server, '/metrics?x=1')).text).toContain('lacuna_incoming_bytes_total 77');
});

it('has nothing else, and lets nobody write', async () => {
  const server = await serve();
  for (const path of ['/', '/metrics/', '/metricsx', '//metrics', '/..', '*']) {
    expect((await ask(server, path)).status, path).toBe(404);
  }
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS']) {
    const { status, headers } = await ask(server, '/metrics', method);
    expect(status, method).toBe(405);
    expect(headers['allow']).toBe('GET, HEAD');
  }
  const head = await ask(server, '/metrics', 'HEAD');
  expect([head.status, head.text]).toEqual([200, '']);
  expect(Number(head.headers['content-length'])).toBeGreaterThan(1000);
});

it('closes every connection after one request, whatever the peer asks for', async () => {
  const server = await serve();
  const line = 'GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n';
  const text = await send(server, line.repeat(3));
  expect(text.match(/HTTP\/1\.1 200/g)).toHaveLength(1);
  expect(text).toMatch(/connection: close/i);
});

it('refuses headers without end, and what is not HTTP', async () => {
  const server = await serve();
  expect(await send(server, `GET /metrics HTTP/1.1\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`)).toMatch(
    /^HTTP\/1\.1 431/,
  );
  expect(await send(server, 'LACUNA\r\n\r\n')).toMatch(/^HTTP\/1\.1 400/);
  expect((await ask(server, '/metrics')).status).toBe(200);
});

it('takes a limited number of connections, and serves again when they are gone', async () => {
  const server = await serve();
  const idle = Array.from({ length: 16 }, () => connect(server.endpoint.port, server.endpoint.host));
  await Promise.all(idle.map((socket) => new Promise((up) => socket.once('connect', up))));
  await expect(ask(server, '/metrics')).rejects.toThrow(/ECONNRESET|socket hang up/);
  for (const socket of idle) {
    socket.destroy();
  }
  // The server has seen them go when it lets somebody in.
  let status: number | undefined;
  while (status === undefined) {
    status = await ask(server, '/metrics').then(
      (answer) => answer.status,
      () => undefined,
    );
  }
  expect(status).toBe(200);
});

it('says in which way an address can not be listened at', async () => {
  const server = await serve();
  const taken = await serveMetrics(server.endpoint).catch((error: unknown) => error);
  expect(isLacunaError(taken, 'INVALID_ARGUMENT')).toBe(true);
  expect(String(taken)).toMatch(/--metrics 127\.0\.0\.1:\d+: can't listen there \(.*EADDRINUSE/);
  await expect(serveMetrics({ host: '192.0.2.1', port: 0 })).rejects.toThrow(/EADDRNOTAVAIL/);
});

it('says what to install where prom-client is missing', async () => {
  const missing = await serveMetrics(ANY_PORT, () =>
    Promise.reject(Object.assign(new Error('Cannot find package'), { code: 'ERR_MODULE_NOT_FOUND' })),
  ).catch((error: unknown) => error);
  expect(isLacunaError(missing, 'INVALID_ARGUMENT')).toBe(true);
  expect(String(missing)).toContain('npm install prom-client@15');
});

it('closes with its connections, and collects no more', async () => {
  const server = await serveMetrics(ANY_PORT);
  const idle = connect(server.endpoint.port, server.endpoint.host);
  await new Promise((up) => idle.once('connect', up));
  const gone = new Promise((done) => idle.once('close', done));
  await server.close();
  await gone;
  await expect(ask(server, '/metrics')).rejects.toThrow('ECONNREFUSED');
});
