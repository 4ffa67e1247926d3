import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';

let folder: string;
let elsewhere: string;

/** Packs the package as it would be published, and installs it in an empty project. */
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'lacuna-pack-'));
  elsewhere = mkdtempSync(join(tmpdir(), 'lacuna-cwd-'));
  const packed = execFileSync('npm', ['pack', '--ignore-scripts', '--silent', '--pack-destination', folder], {
    encoding: 'utf8',
  });
  writeFileSync(join(folder, 'package.json'), '{"name": "user", "private": true, "type": "module"}');
  execFileSync(
    'npm',
    ['install', '--silent', '--no-audit', '--no-fund', '--prefer-offline', join(folder, packed.trim())],
    {
      cwd: folder,
      stdio: ['ignore', 'ignore', 'inherit'],
    },
  );
}, 300_000);
afterAll(() => {
  rmSync(folder, { recursive: true });
  rmSync(elsewhere, { recursive: true });
});

it('runs from where it is installed, whatever the working directory', () => {
  const bin = join(folder, 'node_modules', '.bin', 'lacuna');
  const stdout = execFileSync(bin, ['bench', '--memory', '16MiB', '--runs', '1', '--quiet'], {
    cwd: elsewhere,
    encoding: 'utf8',
  });
  expect(stdout).toMatch(/hints .*yes/);
  const report = JSON.parse(readFileSync(join(elsewhere, 'report.json'), 'utf8')) as { schema: number };
  expect(report.schema).toBe(1);
});

it('finds the captures that come with it', () => {
  const script = join(folder, 'node_modules', 'lacuna', 'dist', 'src', 'cli', 'captures.js');
  const code = `import(${JSON.stringify(script)}).then(m => console.log(m.captureNames().length, m.loadCapture('build-2g').name))`;
  expect(execFileSync(process.execPath, ['-e', code], { cwd: elsewhere, encoding: 'utf8' })).toBe(
    '5 build-2g\n',
  );
});

it('exports a migration engine that a program can use: the example runs', () => {
  copyFileSync('examples/migrate.mjs', join(folder, 'migrate.mjs'));
  const stdout = execFileSync(process.execPath, ['migrate.mjs'], {
    cwd: folder,
    encoding: 'utf8',
    stdio: 'pipe',
  });
  expect(stdout).toMatch(/^completed: \d{4} free pages left behind, 0 pages bad\n$/);
});

it('needs prom-client only where it is passed in: every entry loads without it', () => {
  const code = `
    const entries = await Promise.all(['lacuna', 'lacuna/core', 'lacuna/diagnostics', 'lacuna/metrics'].map((entry) => import(entry)));
    const missing = await import('prom-client').then(() => 'there', ({ code }) => code);
    console.log(entries.every((entry) => Object.keys(entry).length > 0), missing);`;
  const stdout = execFileSync(process.execPath, ['--input-type=module', '-e', code], {
    cwd: folder,
    encoding: 'utf8',
  });
  expect(stdout).toBe('true ERR_MODULE_NOT_FOUND\n');
});
