import { closeSync, openSync, writeFileSync } from 'node:fs';
import { LacunaError, messageOf } from '../errors.js';

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
