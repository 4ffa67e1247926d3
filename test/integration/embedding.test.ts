import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import { describe, expect, it } from 'vitest';

/** A program in a process of its own, in the project, so that it finds lacuna by its name. */
function node(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, args, { encoding: 'utf8' });
}

describe('examples/tiny-vmm: a VMM of one’s own', () => {
  it('moves while it runs, with and without hints, and computes what it would have computed', () => {
    const { status, stdout, stderr } = node('examples/tiny-vmm/main.mjs');
    expect(stderr).toBe('');
    expect(status).toBe(0);
    const [, expected] = /^not moved: result (\d+)$/m.exec(stdout)!;
    const runs = [
      ...stdout.matchAll(
        /^(with|without) hints: completed\n {2}(\d+) pages sent, (\d+) as zeroes, (\d+) free ones left behind.*\n {2}(\d+) instructions there afterwards, result (\d+)$/gm,
      ),
    ].map(([, hints, sent, zero, leftBehind, instructions, result]) => ({
      hints,
      sent: Number(sent),
      zero: Number(zero),
      leftBehind: Number(leftBehind),
      instructions: Number(instructions),
      result,
    }));
    expect(runs.map(({ hints, result }) => ({ hints, result }))).toEqual([
      { hints: 'without', result: expected },
      { hints: 'with', result: expected },
    ]);
    const [without, withHints] = runs;
    expect(without!.sent).toBeGreaterThan(12_000); // every page that was ever written
    expect(without!.leftBehind).toBe(0);
    expect(withHints!.leftBehind).toBeGreaterThan(12_000); // three in four of them, and those never used
    expect(withHints!.sent + withHints!.zero).toBeLessThan(without!.sent / 2);
    for (const { instructions } of runs) {
      expect(instructions).toBeGreaterThan(0);
    }
  });

  it('stays where it is and goes on if the destination refuses it', () => {
    const { status, stdout } = node('examples/tiny-vmm/main.mjs', '--refuse');
    expect(status).toBe(1);
    const [, expected] = /^not moved: result (\d+)$/m.exec(stdout)!;
    const runs = [
      ...stdout.matchAll(
        /^with(?:out)? hints: failed\n {2}DESTINATION_FAILED: .*this host is full\n {2}(\d+) instructions here afterwards, result (\d+)$/gm,
      ),
    ];
    expect(runs.map(([, , result]) => result)).toEqual([expected, expected]);
    for (const [, instructions] of runs) {
      expect(Number(instructions)).toBeGreaterThan(0);
    }
  });
});

describe('diagnostics channels', () => {
  it('are there for a program that knows nothing of its observer; one that throws disturbs no migration', () => {
    const folder = mkdtempSync(join(tmpdir(), 'lacuna-observe-'));
    try {
      const observer = join(folder, 'observer.mjs');
      writeFileSync(
        observer,
        `import { subscribe } from 'node:diagnostics_channel';
        import { isMainThread } from 'node:worker_threads'; // what is preloaded is preloaded in workers too
        let thrown = 0;
        process.on('uncaughtException', () => { thrown += 1; });
        process.on('exit', () => { if (isMainThread) console.error('thrown', thrown); });
        subscribe('lacuna:migration:start', ({ name }) => console.error('start', name));
        subscribe('lacuna:migration:event', ({ event }) => { if (event.type === 'round') throw new Error('observer'); });
        subscribe('lacuna:migration:end', ({ name, report }) => console.error('end', name, report.status, report.ram.normal));`,
      );
      const report = join(folder, 'report.json');
      const { status, stderr } = node(
        ...['--import', pathToFileURL(observer).href, 'dist/src/cli/main.js', 'bench'],
        ...['--memory', '16MiB', '--runs', '1', '--quiet', '--json', report],
      );
      expect(status).toBe(0);
      const lines = stderr.split('\n').filter((line) => /^(start|end) synthetic-16m|^thrown/.test(line));
      expect(lines).toEqual([
        'start synthetic-16m none',
        'end synthetic-16m none completed 4096',
        'start synthetic-16m zero',
        expect.stringMatching(/^end synthetic-16m zero completed \d+$/),
        'start synthetic-16m hints',
        expect.stringMatching(/^end synthetic-16m hints completed \d+$/),
        'start synthetic-16m both',
        expect.stringMatching(/^end synthetic-16m both completed \d+$/),
        expect.stringMatching(/^thrown [1-9]/),
      ]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

it('lacuna/core is made for a browser: it imports nothing, of Node or of anybody else', async () => {
  const { metafile, errors } = await build({
    stdin: { contents: `export * from 'lacuna/core';`, resolveDir: resolve('.') },
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'browser',
    metafile: true,
    logLevel: 'silent',
  });
  expect(errors).toEqual([]);
  const inputs = Object.values(metafile.inputs);
  expect(inputs.length).toBeGreaterThan(10);
  expect(inputs.flatMap(({ imports }) => imports).filter(({ external }) => external === true)).toEqual([]);
  expect(Object.keys(metafile.inputs).filter((file) => file.includes('node_modules'))).toEqual([]);
});
