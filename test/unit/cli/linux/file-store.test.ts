import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { cacheFolder, FileStore, hashOf } from '../../../../src/cli/linux/image/file-store.js';
import type { GuestFiles } from '../../../../src/cli/linux/image/guest-files.js';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lacuna-store-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

function made(text: string): GuestFiles {
  return {
    packages: { kernel: text },
    files: new Map([
      ['vmlinuz', Buffer.from(`kernel ${text}`)],
      ['busybox', Buffer.from('the same in all')],
    ]),
  };
}

describe('a store', () => {
  it('gives back what was stored, files in their order', () => {
    const files = made('1');
    new FileStore(folder, 'guest').write(files);
    const read = new FileStore(folder, 'guest').read()!;
    expect(read.packages).toEqual(files.packages);
    expect([...read.files.keys()]).toEqual(['vmlinuz', 'busybox']);
    expect(Buffer.from(read.files.get('vmlinuz')!).toString()).toBe('kernel 1');
    expect(new FileStore(folder, 'other').read()).toBeUndefined();
  });

  it('leaves no other files behind than the index and the files', () => {
    new FileStore(folder, 'guest').write(made('1'));
    expect(readdirSync(folder).sort()).toEqual(
      ['guest.json', hashOf(Buffer.from('kernel 1')), hashOf(Buffer.from('the same in all'))].sort(),
    );
  });

  const kernel = (): string => join(folder, hashOf(Buffer.from('kernel 1')));
  it.each([
    ['a file was cut off', () => truncateSync(kernel(), 3)],
    ['a file was changed', () => writeFileSync(kernel(), 'kernel 2')],
    ['a file is gone', () => rmSync(kernel())],
    ['the index was cut off', () => truncateSync(join(folder, 'guest.json'), 20)],
    [
      'the index is something else',
      () => writeFileSync(join(folder, 'guest.json'), '{"files": {"vmlinuz": "../x"}}'),
    ],
  ])('has nothing if %s, and is whole again once it is stored anew', (_, damage) => {
    const store = new FileStore(folder, 'guest');
    store.write(made('1'));
    expect(store.read()).toBeDefined();
    damage();
    expect(store.read()).toBeUndefined();
    store.write(made('1'));
    expect(Buffer.from(store.read()!.files.get('vmlinuz')!).toString()).toBe('kernel 1');
  });
});

it('is always whole, while three processes write other files under one name', async () => {
  const writers = ['a', 'b', 'c'].map((word) =>
    promisify(execFile)(process.execPath, ['test/support/store-writer.mjs', folder, word, '60']),
  );
  const torn = (await Promise.all(writers)).map(({ stdout }) => stdout.trim());
  expect(torn).toEqual(['0', '0', '0']);
  // Two sets of files for each of them, of which one file is the same in all.
  expect(readdirSync(folder)).toHaveLength(1 + 3 * 2 * 2 + 1);
});

describe('the cache', () => {
  it('is where XDG_CACHE_HOME says, if that is a path, and else in .cache', () => {
    expect(cacheFolder({ XDG_CACHE_HOME: '/somewhere' })).toBe('/somewhere/lacuna');
    expect(cacheFolder({ XDG_CACHE_HOME: 'relative' })).toBe(join(homedir(), '.cache', 'lacuna'));
    expect(cacheFolder({})).toBe(join(homedir(), '.cache', 'lacuna'));
  });
});
