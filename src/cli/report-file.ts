import { writeFileSync } from 'node:fs';
import { LacunaError, messageOf } from '../errors.js';

/** Writes a report as JSON. Throws INVALID_ARGUMENT if the file can't be written. */
export function writeReport(file: string, report: object): void {
  writeText(file, `${JSON.stringify(report, null, 2)}\n`, 'report', '--json');
}

/** Writes what `option` asked for. Throws INVALID_ARGUMENT if the file can't be written. */
export function writeText(file: string, text: string, what: string, option: string): void {
  try {
    writeFileSync(file, text);
  } catch (cause) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `the ${what} can't be written: ${messageOf(cause)}; choose another ${option} FILE`,
      { cause },
    );
  }
}
