import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import { describe, expect, it } from 'vitest';
import type { BenchReport } from '../../dist/src/index.js';
import { type CliResult, runProcess } from '../support/cli.js';

/** A program in a process of its own, in the project, so that it finds lacuna by its name. */
function node(...args: string[]): Promise<CliResult> {
  return runProcess(process.execPath, args, process.cwd());
}

/** Three programs of a second each, on a machine that may have much else to do. */
const PATIENCE_MS = 240_000;

describe('examples/tiny-vmm: a VMM of one’s own', () => {
  it(
    'moves while it runs, with and without hints, and computes what it would have computed',
    async () => {
      const { code, stdout, stderr } = await node('examples/tiny-vmm/main.mjs');
      expect(stderr).toBe('');
      expect(code).toBe(0);
      const [, expected] = /^not moved: result (\d+)$/m.exec(stdout)!;
      const runs = [
        ...stdout.matchAll(
          /^(with|without) hints: completed\n.*: (\d+) pages sent, (\d+) as zeroes, (\d+) free ones left behind\n {2}(\d+) instructions there afterwards, result (\d+)$/gm,
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
    },
    PATIENCE_MS,
  );

  it(
    'stays where it is and goes on if the destination refuses it',
    async () => {
      const { code, stdout } = await node('examples/tiny-vmm/main.mjs', '--refuse');
      expect(code).toBe(1);
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
    },
    PATIENCE_MS,
  );
});

describe('diagnostics channels', () => {
  it(
    'are there for a program that knows nothing of its observer; one that throws disturbs no migration',
    async () => {
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
        const { code, stderr } = await node(
          ...['--import', pathToFileURL(observer).href, 'dist/src/cli/main.js', 'bench'],
          ...['--memory', '16MiB', '--runs', '1', '--baseline', 'none,both', '--quiet', '--json', report],
        );
        expect(code).toBe(0);
        const { runs } = JSON.parse(readFileSync(report, 'utf8')) as BenchReport;
        const lines = stderr.split('\n').filter((line) => /^(start|end) synthetic-16m|^thrown/.test(line));
        expect(lines).toEqual([
          ...runs.flatMap(({ guest, baseline, ram }) => [
            `start ${guest} ${baseline}`,
            `end ${guest} ${baseline} completed ${ram.normal}`,
          ]),
          expect.stringMatching(/^thrown [1-9]/),
        ]);
        expect(runs).toHaveLength(2);
      } finally {
        rmSync(folder, { recursive: true });
      }
    },
    PATIENCE_MS,
  );
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
