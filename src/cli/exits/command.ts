import { InvalidArgumentError, Option } from 'commander';
import { REQUEST_DESIGNS, type RequestDesign } from '../../balloon/request-interface.js';
import type { CliContext } from '../context.js';
import { parseList, parseWhole } from '../units.js';
import { exits } from './exits.js';
import { MIX_DESCRIPTIONS, MIXES, type Mix, MOST_FEATURES } from './mixes.js';

interface ExitsOptions {
  readonly features: readonly number[];
  readonly mix: readonly Mix[];
  readonly design: readonly RequestDesign[];
  readonly requests: number;
  readonly seed: number;
  readonly json?: string;
  readonly svg?: string;
  readonly quiet: boolean;
}

const HELP = `
Mixes:
${MIXES.map((mix) => `  ${mix.padEnd(14)}${MIX_DESCRIPTIONS[mix]}`).join('\n')}

Designs:
  command-register      the mail's: read cmd_reg, acknowledge, read the registers of what was requested
  read-to-clear         the same, but reading cmd_reg acknowledges
  polling               no cmd_reg: every feature's register is read at each config interrupt
  register-and-polling  what the mail argues against: ballooning by cmd_reg, the other features polled as well

Examples:
  $ lacuna exits
  $ lacuna exits --mix mail --features 2 --json exits.json
  $ lacuna exits --mix balloon,all-at-once --svg exits.svg

Exit codes: 0 every count agrees with the formula, 1 one does not, 2 wrong usage, 130 interrupted.`;

/** "4", "1-8" or "2,4,8": ascending, each once. */
export function parseFeatures(text: string): number[] {
  const whole = parseWhole(1, MOST_FEATURES);
  const counts = text.split(',').flatMap((part) => {
    const [first = NaN, last = first, ...more] = part.split('-').map((number) => whole(number));
    if (more.length > 0 || last < first) {
      throw new InvalidArgumentError(`Numbers of features, as in 4, 1-${MOST_FEATURES} or 2,4,8.`);
    }
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
  return [...new Set(counts)].sort((a, b) => a - b);
}

/** Adds `lacuna exits` to the program. */
export function addExitsCommand({ program, version, commandLine, signal, done }: CliContext): void {
  program
    .command('exits')
    .summary('count the VM exits that requests cost, with a command register and without')
    .description(
      'Counts the VM exits of requests to guests that run: with one command register for all features, as the mail ' +
        "proposes, and with every feature's own register read at each config interrupt.",
    )
    .addOption(
      new Option('--features <n|n-m|list>', 'how many features the device has')
        .argParser(parseFeatures)
        .default(parseFeatures(`1-${MOST_FEATURES}`), `1-${MOST_FEATURES}`),
    )
    .addOption(
      new Option('--mix <list>', 'which requests: some of the list below')
        .argParser(parseList(MIXES))
        .default([...MIXES], 'all'),
    )
    .addOption(
      new Option('--design <list>', 'how the guest learns of them: some of the list below')
        .argParser(parseList(REQUEST_DESIGNS))
        .default([...REQUEST_DESIGNS], 'all'),
    )
    .option('--requests <n>', 'requests of each run, at least', parseWhole(1, 1e6), 100)
    .option('--seed <n>', 'of the random mixes', parseWhole(0, 2 ** 32 - 1), 1)
    .option('--json <file>', 'write a report')
    .option('--svg <file>', 'draw exits a request against the number of features')
    .option('--quiet', 'no progress', false)
    .addHelpText('after', HELP)
    .action(async ({ mix, design, ...options }: ExitsOptions) => {
      done(
        await exits(
          {
            ...options,
            json: options.json,
            svg: options.svg,
            mixes: mix,
            designs: design,
            version,
            command: commandLine,
          },
          signal,
        ),
      );
    });
}
