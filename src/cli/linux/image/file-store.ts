import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import type { GuestFiles } from './guest-files.js';

/** Where lacuna keeps what it need not fetch twice: `$XDG_CACHE_HOME/lacuna`, or `~/.cache/lacuna`. */
export function cacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  const base = env['XDG_CACHE_HOME'];
  // The XDG Base Directory Specification: a path that is not absolute counts as none.
  return join(base?.startsWith('/') === true ? base : join(homedir(), '.cache'), 'lacuna');
}

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const Index = z.object({
  packages: z.record(z.string(), z.string()),
  files: z.record(z.string(), sha256),
});

/**
 * Files under the hash of their contents, and an index of them under a name of its own:
 *
 *     <folder>/<name>.json     {packages: {…}, files: {vmlinuz: <sha256>, …}}
 *     <folder>/<sha256>
 *
 * Each is written to another name first and then renamed, the index last. So whoever reads finds an index with all its files
 * or none, however many processes write; and a file that is not what its name says counts as missing.
 */
export class FileStore {
  /** Where the files are. */
  readonly folder: string;
  readonly #index: string;

  constructor(folder: string, name: string) {
    this.folder = folder;
    this.#index = join(folder, `${name}.json`);
  }

  /** What was stored; undefined if there is nothing, or if any of it is missing or damaged. */
  read(): GuestFiles | undefined {
    try {
      const index = Index.parse(JSON.parse(readFileSync(this.#index, 'utf8')));
      const files = new Map<string, Uint8Array>();
      for (const [name, hash] of Object.entries(index.files)) {
        const bytes = readFileSync(join(this.folder, hash));
        if (hashOf(bytes) !== hash) {
          return undefined;
        }
        files.set(name, bytes);
      }
      return { packages: index.packages, files };
    } catch {
      // Not there, half of it, or not what this version writes: it is fetched again in any case.
      return undefined;
    }
  }

  /** Stores files in place of those before. Throws what the file system says. */
  write({ packages, files }: GuestFiles): void {
    mkdirSync(this.folder, { recursive: true });
    const hashes: Record<string, string> = {};
    for (const [name, bytes] of files) {
      hashes[name] = hashOf(bytes);
      replaceFile(join(this.folder, hashes[name]), bytes);
    }
    replaceFile(this.#index, `${JSON.stringify({ packages, files: hashes }, undefined, 2)}\n`);
  }
}

/** SHA-256, in hexadecimal. */
export function hashOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Writes a file whole or not at all, whoever else writes or reads it. */
export function replaceFile(path: string, data: Uint8Array | string): void {
  const other = `${path}.${process.pid}-${randomBytes(4).toString('hex')}`;
  try {
    writeFileSync(other, data);
    renameSync(other, path);
  } finally {
    rmSync(other, { force: true });
  }
}
