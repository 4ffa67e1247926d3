import pc from 'picocolors';
import { LacunaError } from '../../errors.js';
import { formatMs } from '../../report/format.js';
import { ExitCode } from '../exit-code.js';
import { askControl, type ControlReply } from './control.js';
import { controlIds, isMigrationId } from './control-folder.js';
import { adviceOf } from './handover.js';

/** What `lacuna send --resume` was asked for. */
export interface ResumeRequest {
  /** true: which there are. */
  readonly migration: string | true;
  readonly override: boolean;
  readonly waitMs: number;
}

/** Speaks to a `lacuna send` that lives. Returns the exit code. */
export async function resume({ migration, override, waitMs }: ResumeRequest): Promise<number> {
  if (migration === true) {
    if (override) {
      throw new LacunaError('INVALID_ARGUMENT', '--override is for one migration: --resume ID --override');
    }
    return list();
  }
  if (!isMigrationId(migration)) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `--resume ${migration}: the id of a migration has 32 hexadecimal digits; --resume alone lists those that are alive`,
    );
  }
  const before = await askControl(migration, 'status');
  if (before === undefined) {
    console.error(
      `no process on this machine sends ${migration} as this user. If its sender has died, its guest died with it, unless ` +
        'the commit had been sent: then look at the destination.',
    );
    return ExitCode.verificationFailed;
  }
  if (before.state === 'sending') {
    console.error(
      `${before.words}. There is nothing to resume; Ctrl-C there (process ${before.pid}) calls it off.`,
    );
    return ExitCode.verificationFailed;
  }
  const reply =
    before.state === 'unanswered'
      ? await askControl(migration, override ? 'override' : 'withdraw', waitMs)
      : before;
  return tell(reply, before, waitMs);
}

function tell(reply: ControlReply | undefined, before: ControlReply, waitMs: number): number {
  if (reply === undefined) {
    console.error(`the process that kept ${before.guest} (${before.pid}) has just ended`);
    return ExitCode.unanswered;
  }
  if (reply.state === 'here' || reply.state === 'there') {
    const where = reply.state === 'here' ? `goes on here, in process ${reply.pid}` : `runs at ${reply.to}`;
    console.log(`${pc.green('✔')} ${reply.guest} ${where}`);
    return ExitCode.ok;
  }
  console.error(
    `no answer from ${reply.to} within ${formatMs(waitMs)}: ${reply.words}.\n` +
      `It goes on being asked to void the commit, and ${reply.guest} goes on here if it does.\n${adviceOf(reply)}`,
  );
  return ExitCode.unanswered;
}

/** A line for each that is alive. */
async function list(): Promise<number> {
  const replies = await Promise.all(
    controlIds().map((id) => askControl(id, 'status').catch(() => undefined)),
  );
  const alive = replies.filter((reply) => reply !== undefined);
  for (const { migration, pid, elapsedMs, words } of alive) {
    console.log(`${migration}  process ${pid}, ${formatMs(elapsedMs)}: ${words}`);
  }
  if (alive.length === 0) {
    console.log('no process on this machine sends a guest as this user');
  }
  return ExitCode.ok;
}
