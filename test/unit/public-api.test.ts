import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';

/** What an entry of the package exports: name, and the file that declares it. */
function exportsOf(entry: string): { name: string; file: string }[] {
  const source = readFileSync(entry, 'utf8');
  const found: { name: string; file: string }[] = [];
  for (const [, names, from] of source.matchAll(/^export (?:type )?\{([^}]*)\} from '([^']+)';/gm)) {
    const file = join(dirname(entry), from!.replace(/\.js$/, '.ts'));
    for (const name of names!.split(',')) {
      if (name.trim() !== '') {
        found.push({ name: name.replace(/\btype /, '').trim(), file });
      }
    }
  }
  for (const [, name] of source.matchAll(
    /^export (?:async )?(?:const|class|function|interface|type) (\w+)/gm,
  )) {
    found.push({ name: name!, file: entry });
  }
  return found;
}

it.each(['src/core.ts', 'src/index.ts', 'src/diagnostics.ts', 'src/metrics.ts'])(
  'everything that %s exports says what it is',
  (entry) => {
    const names = exportsOf(entry);
    expect(names.length).toBeGreaterThan(2);
    const silent = names.filter(({ name, file }) => {
      const source = readFileSync(file, 'utf8');
      const declaration = new RegExp(
        `^export (?:abstract )?(?:async )?(?:const|class|function|interface|type) ${name}\\b`,
        'm',
      ).exec(source);
      expect(declaration, `${name} in ${file}`).not.toBeNull();
      return !source.slice(0, declaration!.index).trimEnd().endsWith('*/');
    });
    expect(silent).toEqual([]);
  },
);
