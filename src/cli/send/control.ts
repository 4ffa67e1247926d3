import { rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { z } from 'zod';
import { LacunaError, messageOf } from '../../errors.js';
import { controlPath, makeControlFolder } from './control-folder.js';

/*
 * How `lacuna send --resume` speaks to a `lacuna send` that lives: a Unix socket in a folder of the user's own. One line
 * of JSON there, one line back, and that is the connection.
 */

/** What may be asked of a migration. */
export interface ControlRequest {
  readonly lacuna: 1;
  /**
   * `status`: nothing happens. `withdraw`: the destination is to be asked to void the commit. `override`: the operator's
   * word that the guest does not run there.
   */
  readonly ask: 'status' | 'withdraw' | 'override';
  /** How long a withdrawal's answer is waited for. */
  readonly waitMs: number;
}

/**
 * Where a migration is, for whoever asks. `sending`: the commit has not left, the guest runs at the source. `unanswered`: it
 * has, and the guest stands still there. `here`: the guest goes on at the source. `there`: it runs at the destination.
 */
export type ControlState = 'sending' | 'unanswered' | 'here' | 'there';

/** The answer, to all of it. */
export interface ControlReply {
  readonly lacuna: 1;
  readonly migration: string;
  readonly pid: number;
  readonly guest: string;
  /** HOST:PORT */
  readonly to: string;
  /** Since the migration began. */
  readonly elapsedMs: number;
  readonly state: ControlState;
  /** The same for people. */
  readonly words: string;
}

const request: z.ZodType<ControlRequest> = z.strictObject({
  lacuna: z.literal(1),
  ask: z.enum(['status', 'withdraw', 'override']),
  waitMs: z.number().nonnegative().max(600_000),
});

const reply: z.ZodType<ControlReply> = z.strictObject({
  lacuna: z.literal(1),
  migration: z.string().max(64),
  pid: z.int().positive(),
  guest: z.string().max(1024),
  to: z.string().max(1024),
  elapsedMs: z.number(),
  state: z.enum(['sending', 'unanswered', 'here', 'there']),
  words: z.string().max(4096),
});

const LONGEST_REQUEST = 1024;
const LONGEST_REPLY = 16 * 1024;
const MOST_CONNECTIONS = 8;
/** Whoever connects has this long to say what he wants. */
const PATIENCE_MS = 5000;
/** What a reply may take beyond the wait that was asked for. */
const REPLY_GRACE_MS = 5000;

/** A control socket that is being served. */
export interface Control {
  readonly path: string;
  close(): void;
}

/**
 * Serves the control socket of a migration until it is closed. It keeps no process alive. Throws INVALID_ARGUMENT if it
 * can't be made.
 */
export async function serveControl(
  migrationId: string,
  answer: (asked: ControlRequest) => Promise<ControlReply>,
): Promise<Control> {
  makeControlFolder();
  const path = controlPath(migrationId);
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    void serveOne(socket, answer);
  });
  server.maxConnections = MOST_CONNECTIONS;
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(
        new LacunaError('INVALID_ARGUMENT', `the control socket ${path} can't be made: ${messageOf(cause)}`, {
          cause,
        }),
      ),
    );
    server.listen(path, () => resolve());
  });
  server.unref();
  const remove = (): void => rmSync(path, { force: true });
  process.once('exit', remove);
  return {
    path,
    close: () => {
      process.off('exit', remove);
      server.close();
      remove();
    },
  };
}

async function serveOne(
  socket: Socket,
  answer: (asked: ControlRequest) => Promise<ControlReply>,
): Promise<void> {
  socket.unref();
  try {
    const asked = request.parse(JSON.parse(await readLine(socket, LONGEST_REQUEST, PATIENCE_MS)));
    socket.setTimeout(0);
    socket.end(`${JSON.stringify(await answer(asked))}\n`);
  } catch {
    socket.destroy(); // somebody who does not speak this
  }
}

/**
 * Asks the migration with that id. undefined: nobody is there any more, and what its socket has left behind is removed.
 * Throws CONNECTION_FAILED for one that is there and does not answer.
 */
export async function askControl(
  migrationId: string,
  ask: ControlRequest['ask'],
  waitMs = 0,
): Promise<ControlReply | undefined> {
  const path = controlPath(migrationId);
  const socket = connect(path);
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve).once('error', reject);
    });
  } catch (thrown) {
    const { code } = thrown as NodeJS.ErrnoException;
    if (code === 'ECONNREFUSED') {
      rmSync(path, { force: true }); // its process died
    }
    if (code === 'ECONNREFUSED' || code === 'ENOENT') {
      return undefined;
    }
    throw unanswered(migrationId, thrown);
  }
  try {
    const line: ControlRequest = { lacuna: 1, ask, waitMs };
    socket.end(`${JSON.stringify(line)}\n`);
    return reply.parse(JSON.parse(await readLine(socket, LONGEST_REPLY, waitMs + REPLY_GRACE_MS)));
  } catch (thrown) {
    throw unanswered(migrationId, thrown);
  } finally {
    socket.destroy();
  }
}

function unanswered(migrationId: string, cause: unknown): LacunaError {
  return new LacunaError(
    'CONNECTION_FAILED',
    `the process that sends ${migrationId} is there and does not answer: ${messageOf(cause)}`,
    { cause },
  );
}

/** The first line that comes, of at most `longest` bytes, within `timeoutMs`. */
function readLine(socket: Socket, longest: number, timeoutMs: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const timer = setTimeout(() => over(new Error(`nothing within ${timeoutMs} ms`)), timeoutMs);
    const over = (error: Error): void => {
      clearTimeout(timer);
      reject(error);
    };
    socket.setEncoding('utf8');
    socket.on('error', over);
    socket.on('end', () => over(new Error('the connection was closed')));
    socket.on('close', () => over(new Error('the connection was closed')));
    socket.on('data', (chunk: string) => {
      text += chunk;
      const end = text.indexOf('\n');
      if (end !== -1 && end <= longest) {
        clearTimeout(timer);
        resolve(text.slice(0, end));
      } else if (text.length > longest) {
        over(new Error(`more than ${longest} bytes`));
        socket.destroy();
      }
    });
  });
}
