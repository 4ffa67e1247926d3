import type { Plugin } from 'vitest/config';
import type { Mutant } from './mutants.js';

/** The sources with one mistake in them. Throws if the place of the mistake is not where it was. */
export function mutate(mutant: Mutant): Plugin {
  return {
    name: 'lacuna:mutate',
    enforce: 'pre',
    transform: (code, id) =>
      id.endsWith(`/${mutant.file}`) ? { code: withMistake(code, mutant), map: null } : undefined,
  };
}

export function withMistake(code: string, { name, file, edits }: Mutant): string {
  return edits.reduce((text, { find, replace }) => {
    const places = text.split(find).length - 1;
    if (places !== 1) {
      throw new Error(
        `mutant "${name}": its line stands ${places} times in ${file}; mend test/mutants/mutants.ts`,
      );
    }
    return text.replace(find, () => replace);
  }, code);
}
