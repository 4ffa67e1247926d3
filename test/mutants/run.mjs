#!/usr/bin/env node
// Puts every mistake of mutants.ts into the engine, one at a time, and has the explorer or a named test catch it.
//
//   npm run mutants                    all of them; writes the table in docs/CORRECTNESS.md
//   npm run mutants -- --check         all of them; fails if one survives or the table says something else
//   npm run mutants -- --only 'mark before write'   one, with its trace
//   npm run mutants -- --share 1/3     every third one
import { spawn } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { createViteServer } from 'vitest/node';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const DOCUMENT = join(ROOT, 'docs/CORRECTNESS.md');
/** What `npx vitest` runs; npx would be one more process for each mutant. */
const VITEST = join(ROOT, 'node_modules/vitest/vitest.mjs');
/** Between these the table and the trace are written; each `… to here` ends what began last. */
const TABLE = '<!-- npm run mutants writes from here … -->';
const TRACE = '<!-- the trace: npm run mutants writes from here … -->';
const END = '<!-- … to here -->';
/** The mistake whose trace is printed in the document. */
const TRACED = 'a hint clears the dirty log';

/** A mistake that has not shown by then counts as one that is not caught. */
const MOST_STATES = 500_000;

const { values: options } = parseArgs({
  options: {
    check: { type: 'boolean', default: false },
    only: { type: 'string' },
    share: { type: 'string', default: '1/1' },
    'in-child': { type: 'string' },
  },
});

/** Modules of the project, as TypeScript; `plugins` see them first. */
async function withModules(plugins, use) {
  const server = await createViteServer({
    root: ROOT,
    configFile: false,
    logLevel: 'error',
    appType: 'custom',
    plugins,
    server: { middlewareMode: true, watch: null, hmr: false, ws: false },
    optimizeDeps: { noDiscovery: true },
  });
  try {
    return await use((path) => server.ssrLoadModule(path));
  } finally {
    await server.close();
  }
}

/** In a process of its own: explores one world with one mistake in the engine. Prints what came of it as JSON. */
async function exploreMutant(name) {
  const [mutant, mutate, seeThrough] = await withModules([], async (load) => {
    const { MUTANTS } = await load('/test/mutants/mutants.ts');
    const { mutate: makeMutate } = await load('/test/mutants/mutate.ts');
    const { seeThrough: makeSeeThrough } = await load('/test/explorer/see-through.ts');
    return [MUTANTS.find((candidate) => candidate.name === name), makeMutate, makeSeeThrough];
  });
  await withModules([mutate(mutant), seeThrough()], async (load) => {
    const { WORLDS } = await load('/test/explorer/worlds.ts');
    const { MigrationWorld, SMALL_WORLD } = await load('/test/explorer/migration-world.ts');
    const { explore } = await load('/test/explorer/search.ts');
    const { traceTable } = await load('/test/explorer/trace.ts');
    const { world: worldName, bounds } = mutant.caughtBy;
    const found =
      bounds === undefined
        ? WORLDS.find((candidate) => candidate.name === worldName)
        : { bounds: { ...SMALL_WORLD, ...bounds } };
    if (found === undefined) {
      throw new Error(`mutant "${name}": there is no world "${worldName}"`);
    }
    const world = new MigrationWorld(found.bounds);
    const start = world.memento.save();
    const { counterexample, states } = explore(world, { mostStates: MOST_STATES });
    world.memento.restore(start);
    process.stdout.write(
      JSON.stringify({
        caught: counterexample !== undefined,
        invariant: counterexample?.invariant,
        message: counterexample?.message,
        states,
        steps: counterexample?.actions.length,
        trace: counterexample === undefined ? '' : traceTable(world, counterexample),
      }),
    );
  });
}

function run(command, args, env = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: ROOT, env: { ...process.env, ...env } });
    let out = '';
    let err = '';
    child.stdout.on('data', (data) => {
      out += data;
    });
    child.stderr.on('data', (data) => {
      err += data;
    });
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, out, err }));
  });
}

async function catchMutant(mutant, number) {
  const { caughtBy } = mutant;
  if (caughtBy.world !== undefined) {
    const { code, out, err } = await run(process.execPath, [
      fileURLToPath(import.meta.url),
      '--in-child',
      mutant.name,
    ]);
    if (code !== 0) {
      throw new Error(`mutant "${mutant.name}": ${err}`);
    }
    const result = JSON.parse(out);
    const by = `${result.invariant} in *${caughtBy.world}*, after ${result.states} states, by ${result.steps} steps`;
    return { ...result, by };
  }
  const report = join(tmpdir(), `lacuna-mutant-${process.pid}-${number}.json`);
  const args = [
    VITEST,
    'run',
    // "unit" is two projects: some files have modules of their own.
    `--project=${caughtBy.project}*`,
    '--reporter=json',
    `--outputFile=${report}`,
    caughtBy.file,
  ];
  const { out, err } = await run(
    process.execPath,
    caughtBy.test === '' ? args : [...args, '-t', caughtBy.test],
    {
      LACUNA_MUTANT: mutant.name,
    },
  );
  let results;
  try {
    results = JSON.parse(readFileSync(report, 'utf8'));
  } catch {
    throw new Error(`mutant "${mutant.name}": the tests did not run\n${out}${err}`);
  }
  rmSync(report);
  const ran = results.testResults.flatMap((file) => file.assertionResults);
  const failed = ran.filter((test) => test.status === 'failed');
  if (ran.every((test) => test.status !== 'passed' && test.status !== 'failed')) {
    throw new Error(
      `mutant "${mutant.name}": no test "${caughtBy.test}" of ${caughtBy.file} ran\n${out}${err}`,
    );
  }
  const first = failed[0];
  // The explorer's tests say in their message how far they had got.
  const [after] = /after \d+ states/.exec(first?.failureMessages?.[0] ?? '') ?? [];
  return {
    caught: first !== undefined,
    by: first === undefined ? '' : `test “${first.title}”${after === undefined ? '' : `, ${after}`}`,
    trace: first?.failureMessages?.[0] ?? '',
  };
}

function row(number, { name, story, file }, { by }) {
  return `| ${number} | ${name} | ${story} | \`${file.replace('src/', '')}\` | ${by.replaceAll('|', '\\|')} |`;
}

async function main() {
  const all = await withModules([], async (load) => (await load('/test/mutants/mutants.ts')).MUTANTS);
  const [share, shares] = options.share.split('/').map(Number);
  const chosen = all
    .map((mutant, i) => ({ mutant, number: i + 1 }))
    .filter(({ mutant, number }) =>
      options.only === undefined ? number % shares === share % shares : mutant.name === options.only,
    );
  if (chosen.length === 0) {
    throw new Error(
      `no mutant is called "${options.only}"; they are: ${all.map(({ name }) => name).join(', ')}`,
    );
  }
  const survivors = [];
  const rows = [];
  let trace;
  const waiting = [...chosen];
  const work = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const { mutant, number } = next;
      const began = performance.now();
      const result = await catchMutant(mutant, number);
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      console.log(`${result.caught ? 'caught  ' : 'SURVIVED'} ${mutant.name}: ${result.by} (${seconds} s)`);
      if (options.only !== undefined) {
        console.log(result.trace);
      }
      if (!result.caught) {
        survivors.push(mutant.name);
      }
      rows[number] = row(number, mutant, result);
      if (mutant.name === TRACED) {
        trace = `\`\`\`\n${result.trace}\n\`\`\``;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(2, availableParallelism()) }, work));
  if (survivors.length > 0) {
    console.error(`${survivors.length} survived: ${survivors.join(', ')}`);
    process.exitCode = 1;
    return;
  }
  console.log(`${chosen.length} mutants, all caught`);
  const text = readFileSync(DOCUMENT, 'utf8');
  if (options.check) {
    const expected = [...rows, trace].filter((part) => part !== undefined && !text.includes(part));
    if (expected.length > 0) {
      console.error(
        `docs/CORRECTNESS.md does not say (npm run mutants rewrites it):\n${expected.join('\n')}`,
      );
      process.exitCode = 1;
    }
  } else if (chosen.length === all.length) {
    const head = '| | mistake | what it leads to | in | caught by |\n|---|---|---|---|---|';
    const table = `${head}\n${rows.filter(Boolean).join('\n')}`;
    writeFileSync(DOCUMENT, between(between(text, TABLE, table), TRACE, trace));
  }
}

/** `text` with `part` between the marks. */
function between(text, begin, part) {
  const from = text.indexOf(begin) + begin.length;
  const to = text.indexOf(END, from);
  if (from < begin.length || to === -1) {
    throw new Error(`docs/CORRECTNESS.md has lost its marks: ${begin} ${END}`);
  }
  return `${text.slice(0, from)}\n\n${part}\n\n${text.slice(to)}`;
}

await (options['in-child'] === undefined ? main() : exploreMutant(options['in-child']));
