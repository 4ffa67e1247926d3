import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { z } from 'zod';
import { LacunaError, messageOf } from '../errors.js';
import { parseBenchReport } from '../report/parse.js';
import type { BenchReport } from '../report/schema.js';

function refuse(file: string, cause: unknown): never {
  throw new LacunaError(
    'INVALID_ARGUMENT',
    `the report can't be written to ${file}: ${messageOf(cause)}; choose another file`,
    { cause },
  );
}

/** Throws INVALID_ARGUMENT if a report can't go there: before minutes of work, not after them. */
export function checkWritable(file: string | undefined): void {
  if (file !== undefined) {
    try {
      closeSync(openSync(file, 'a'));
    } catch (cause) {
      refuse(file, cause);
    }
  }
}

/** Writes a file. Throws INVALID_ARGUMENT if it can't be written. */
export function writeText(file: string, text: string): void {
  try {
    writeFileSync(file, text);
  } catch (cause) {
    refuse(file, cause);
  }
}

/** Writes a report as JSON. Throws INVALID_ARGUMENT if the file can't be written. */
export function writeReport(file: string, report: object): void {
  writeText(file, `${JSON.stringify(report, null, 2)}\n`);
}

/** Problems of a file that are shown; the rest are of the same kind. */
const MOST_PROBLEMS = 3;

/** Reads what `lacuna bench --json` wrote. Throws INVALID_ARGUMENT with what is wrong with it. */
export function readBenchReport(file: string): BenchReport {
  try {
    return parseBenchReport(JSON.parse(readFileSync(file, 'utf8')));
  } catch (cause) {
    const what =
      cause instanceof z.ZodError
        ? cause.issues
            .slice(0, MOST_PROBLEMS)
            .map(({ path, message }) => `${path.join('.') || 'the file'}: ${message}`)
            .join('; ')
        : messageOf(cause);
    throw new LacunaError('INVALID_ARGUMENT', `${file} is no report of lacuna bench: ${what}`, { cause });
  }
}
