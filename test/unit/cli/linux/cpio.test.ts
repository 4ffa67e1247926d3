import { execFileSync, spawnSync } from 'node:child_process';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { type CpioEntry, cpioArchive } from '../../../../src/cli/linux/image/cpio.js';
import { readCpio } from '../../../support/naive-cpio.js';

const TYPES = { file: 0o100000, folder: 0o040000, link: 0o120000 };

it('holds what was put in, whatever the lengths', () => {
  const entry = fc.record({
    path: fc.stringMatching(/^[a-z]{1,9}(\/[a-zé]{1,9}){0,2}$/),
    kind: fc.constantFrom('file', 'folder', 'link'),
    mode: fc.integer({ min: 0, max: 0o777 }),
    data: fc.uint8Array({ maxLength: 40 }),
  }) as fc.Arbitrary<Required<CpioEntry>>;
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 8 }), (entries) => {
      const read = readCpio(cpioArchive(entries));
      expect(read).toHaveLength(entries.length);
      entries.forEach(({ path, kind, mode, data }, index) => {
        expect(read[index]!.path).toBe(path);
        expect(read[index]!.mode).toBe(TYPES[kind] | (kind === 'link' ? 0o777 : mode));
        expect(Buffer.compare(read[index]!.data, data)).toBe(0);
      });
    }),
  );
});

const hasCpio = spawnSync('cpio', ['--version']).status === 0;
if (!hasCpio) {
  console.warn('\n*** NOT TESTED with cpio: there is none here (Debian: apt install cpio). ***\n');
}

it.skipIf(!hasCpio)('is an archive for cpio', () => {
  const archive = cpioArchive([
    { path: 'bin', kind: 'folder' },
    { path: 'bin/busybox', kind: 'file', data: Buffer.from('program') },
    { path: 'bin/sh', kind: 'link', data: Buffer.from('busybox') },
  ]);
  const listed = execFileSync('cpio', ['-tv', '--quiet'], { input: archive, encoding: 'utf8' });
  expect(listed.trim().split('\n')).toEqual([
    expect.stringMatching(/^drwxr-xr-x .* bin$/),
    expect.stringMatching(/^-rwxr-xr-x .* 7 .* bin\/busybox$/),
    expect.stringMatching(/^lrwxrwxrwx .* bin\/sh -> busybox$/),
  ]);
});
