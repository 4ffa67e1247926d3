import type { Plugin } from 'vitest/config';

/** What the explorer calls a private field `#name` once it can see it. */
export const VISIBLE_PREFIX = '__';

/** Where each class says which of its fields are `readonly`: TypeScript knows, and JavaScript does not. */
export const READONLY_FIELDS = 'lacunaReadonlyFields';

/**
 * The real code with its private fields in view: `#name` becomes `__name` in every file of `src/`, and nothing else
 * changes. The explorer saves, restores and compares whole states of the code that ships; a field that somebody adds
 * tomorrow is part of them without a line written here.
 */
export function seeThrough(): Plugin {
  return {
    name: 'lacuna:see-through',
    enforce: 'pre',
    transform: (code, id) => {
      if (isSource(id)) {
        return { code: `${withVisibleFields(code)}\n${readonlyFields(code)}`, map: null };
      }
      // The worlds' own classes keep what is private to themselves: it never changes.
      return id.includes('/test/explorer/')
        ? { code: `${code}\n${readonlyFields(code)}`, map: null }
        : undefined;
    },
  };
}

/** Whether a module is one of the project's own sources. */
export function isSource(id: string): boolean {
  return /\/src\/[\w/-]+\.ts$/.test(id);
}

/** A private name in TypeScript: after a `.`, or at the start of a member. Comments may change too; no string has one. */
export function withVisibleFields(code: string): string {
  return code.replace(/(^|[\s.(!])#([a-z]\w*)/gm, `$1${VISIBLE_PREFIX}$2`);
}

/** A statement that notes the `readonly` fields of a module's classes. The formatter indents members by two. */
function readonlyFields(code: string): string {
  const fields: Record<string, string[]> = {};
  let name = '';
  for (const line of code.split('\n')) {
    name = /^(?:export )?(?:default )?(?:abstract )?class (\w+)/.exec(line)?.[1] ?? name;
    const [, field, list] =
      /^ {2}(?:declare |override |protected )*readonly (#?\w+)(: readonly .*\[\])?/.exec(line) ?? [];
    if (field !== undefined) {
      // A list that is readonly itself is marked by a star: its elements are always the same objects.
      const entry = `${field.replace('#', VISIBLE_PREFIX)}${list === undefined ? '' : '*'}`;
      fields[name] = [...(fields[name] ?? []), entry];
    }
    if (line === '}') {
      name = '';
    }
  }
  return `Object.assign((globalThis.${READONLY_FIELDS} ??= {}), ${JSON.stringify(fields)});`;
}
