/** A file of an archive in the "newc" format, as it stands there. */
export interface NaiveCpioEntry {
  readonly path: string;
  readonly mode: number;
  readonly data: Buffer;
}

/** Reads an archive field by field, up to its trailer; throws where it is none. */
export function readCpio(archive: Buffer): NaiveCpioEntry[] {
  const entries: NaiveCpioEntry[] = [];
  let at = 0;
  while (true) {
    const field = (index: number): number => {
      const text = archive.toString('latin1', at + 6 + index * 8, at + 14 + index * 8);
      if (!/^[0-9a-f]{8}$/.test(text)) {
        throw new Error(`at ${at}: field ${index} is ${JSON.stringify(text)}`);
      }
      return Number.parseInt(text, 16);
    };
    if (archive.toString('latin1', at, at + 6) !== '070701' || at % 4 !== 0) {
      throw new Error(`at ${at}: no header`);
    }
    const nameStart = at + 110;
    const nameEnd = nameStart + field(11);
    const path = archive.toString('utf8', nameStart, nameEnd - 1);
    if (archive[nameEnd - 1] !== 0) {
      throw new Error(`at ${at}: the name does not end with a zero`);
    }
    const dataStart = Math.ceil(nameEnd / 4) * 4;
    const dataEnd = dataStart + field(6);
    if (path === 'TRAILER!!!') {
      if (dataEnd !== archive.length) {
        throw new Error('there is something behind the trailer');
      }
      return entries;
    }
    entries.push({ path, mode: field(1), data: archive.subarray(dataStart, dataEnd) });
    at = Math.ceil(dataEnd / 4) * 4;
  }
}
