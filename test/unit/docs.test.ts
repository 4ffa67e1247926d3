import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as promClient from 'prom-client';
import { describe, expect, it } from 'vitest';
import { INCOMING_CHANNELS, MIGRATION_CHANNELS } from '../../src/diagnostics.js';
import { collectMigrationMetrics } from '../../src/metrics.js';

const read = (path: string): string => readFileSync(path, 'utf8');
const EMBEDDING = read('docs/EMBEDDING.md');

/** First cells, without their backticks, of the table whose head begins with `head`. */
function firstColumn(markdown: string, head: string): string[] {
  const lines = markdown.split('\n');
  const start = lines.findIndex((line) => line.startsWith(`| ${head} `));
  expect(start, `a table with the head "${head}"`).toBeGreaterThan(-1);
  const cells: string[] = [];
  for (const line of lines.slice(start + 2)) {
    if (!line.startsWith('|')) {
      break;
    }
    cells.push(line.split('|')[1]!.trim().replaceAll('`', ''));
  }
  return cells;
}

/** The string literals that `pattern` finds after `start` and before `end` in a source. */
function literals(source: string, start: string, end: string, pattern: RegExp): string[] {
  const from = source.indexOf(start);
  expect(from).toBeGreaterThan(-1);
  return [...source.slice(from, source.indexOf(end, from)).matchAll(pattern)].map((match) => match[1]!);
}

describe('docs/EMBEDDING.md', () => {
  it('has every error code, and no other', () => {
    const codes = literals(read('src/errors.ts'), 'type LacunaErrorCode', ';', /'([A-Z_]+)'/g);
    expect(codes.length).toBeGreaterThan(15);
    expect(firstColumn(EMBEDDING, 'code').toSorted()).toEqual(codes.toSorted());
  });

  it('has every event, in the order of the type', () => {
    const source = read('src/migration/precopy.ts');
    const types = literals(source, 'type MigrationEvent', 'export interface', /type: '([a-z-]+)'/g);
    expect(types.length).toBeGreaterThan(10);
    expect(firstColumn(EMBEDDING, '`type`')).toEqual(types);
  });

  it('has every member of what is to be implemented', () => {
    const source = read('src/migration/vm.ts');
    for (const name of ['SourceVm', 'DestinationVm', 'HintDevice']) {
      const members = literals(
        source,
        `export interface ${name} {`,
        '\n}',
        /^ {2}(?:readonly )?(\w+)[(?:]/gm,
      );
      const heading = new RegExp(`### \`${name}\`[\\s\\S]*?(?=\n##)`).exec(EMBEDDING)![0];
      expect(members.length).toBeGreaterThan(2);
      for (const member of members) {
        expect(heading, `${name}.${member}`).toMatch(new RegExp(`\`${member}[\`(]`));
      }
    }
  });

  it('has every channel and every metric', async () => {
    expect(firstColumn(EMBEDDING, 'channel')).toEqual([
      ...Object.values(MIGRATION_CHANNELS),
      ...Object.values(INCOMING_CHANNELS),
    ]);
    const registry = new promClient.Registry();
    const stop = collectMigrationMetrics(promClient, { registry });
    const metrics = await registry.getMetricsAsJSON();
    stop();
    expect(firstColumn(EMBEDDING, 'metric').toSorted()).toEqual(metrics.map(({ name }) => name).toSorted());
  });

  it('shows lines of the example as they are there, in their order', () => {
    const blocks = [...EMBEDDING.matchAll(/```js (\S+)\n([\s\S]*?)```/g)];
    expect(blocks.length).toBeGreaterThan(3);
    for (const [, path, block] of blocks) {
      const lines = read(path!)
        .split('\n')
        .map((line) => line.trim());
      let from = 0;
      for (const line of block!.split('\n').filter((text) => text.trim() !== '')) {
        const at = lines.indexOf(line.trim(), from);
        expect(at, `${path}: ${line}`).toBeGreaterThan(-1);
        from = at + 1;
      }
    }
  });
});

describe('links within the documents', () => {
  it.each(['docs/EMBEDDING.md', 'docs/HANDOVER.md', 'docs/MAIL.md', 'docs/WIRE-FORMAT.md'])(
    'of %s lead to files',
    (document) => {
      const targets = [...read(document).matchAll(/\]\(([^)#]+)(?:#[^)]*)?\)/g)].map((match) => match[1]!);
      for (const target of targets.filter((link) => !link.startsWith('http'))) {
        expect(() => readFileSync(join('docs', target)), target).not.toThrow('ENOENT');
      }
    },
  );
});

it('docs/HANDOVER.md names tests that are there', () => {
  const titlesIn = (text: string): string[] => [...text.matchAll(/“([^”]+)”/g)].map((match) => match[1]!);
  let tests = 0;
  for (const line of read('docs/HANDOVER.md').split('\n')) {
    const cells = line.split('|');
    const processes = cells.length > 2 ? cells.at(-2)! : '';
    for (const title of titlesIn(processes)) {
      expect(read('test/commands/handover.test.ts'), title).toContain(title);
      tests += 1;
    }
    let file = '';
    const rest = cells.length > 2 ? cells.slice(0, -2).join('|') : line;
    for (const [, path, title] of rest.matchAll(/`([a-z]+\.test\.ts)`|“([^”]+)”/g)) {
      file = path ?? file;
      if (title !== undefined) {
        expect(read(join('test/unit/migration', file)), `${file}: ${title}`).toContain(title);
        tests += 1;
      }
    }
  }
  expect(tests).toBeGreaterThan(30);
});

describe('docs/MAIL.md', () => {
  const rows = read('docs/MAIL.md')
    .split('\n')
    .filter((line) => /^\| \d+ /.test(line))
    .map((line) => line.split(/(?<!\\)\|/).map((cell) => cell.trim()));

  it('has a row for every sentence, each with the code that it lives in and a test', () => {
    expect(rows.map(([, number]) => Number(number))).toEqual(rows.map((_, i) => i + 1));
    expect(rows).toHaveLength(28);
    for (const [, number, , , where, tests] of rows) {
      expect(where, `sentence ${number}`).toMatch(/\]\(/);
      expect(tests, `sentence ${number}`).toMatch(/“.+”/);
    }
  });

  it('names files that exist and symbols that are in them', () => {
    for (const [, number, , , where] of rows) {
      for (const [, symbol, path] of where!.matchAll(/\[`([^`]+)`\]\(([^)]+)\)/g)) {
        const source = read(join('docs', path!));
        for (const part of symbol!.split('.')) {
          expect(source, `sentence ${number}: ${symbol} in ${path}`).toContain(part);
        }
      }
    }
  });

  it('names tests that exist', () => {
    for (const [, number, , , , tests] of rows) {
      const named = [...tests!.matchAll(/“([^”]+)” \(\[[^\]]+\]\(([^)]+)\)\)/g)];
      expect(named.length, `sentence ${number}`).toBe(tests!.split('“').length - 1);
      for (const [, title, path] of named) {
        expect(read(join('docs', path!)), `sentence ${number}`).toContain(title);
      }
    }
  });
});
