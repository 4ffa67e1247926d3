import { writeFileSync } from 'node:fs';
import { LacunaError, messageOf } from '../errors.js';

/** Writes a report as JSON. Throws INVALID_ARGUMENT if the file can't be written. */
export function writeReport(file: string, report: object): void {
  try {
    writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`);
  } catch (cause) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `the report can't be written: ${messageOf(cause)}; choose another --json FILE`,
      { cause },
    );
  }
}
