import pc from 'picocolors';
import { LacunaError } from '../../errors.js';
import { mergeReports } from '../../report/merge.js';
import type { BenchReport } from '../../report/schema.js';
import { isGood } from '../../report/summary.js';
import { deliver } from '../bench/bench.js';
import type { CliContext } from '../context.js';
import { ExitCode } from '../exit-code.js';
import { readBenchReport } from '../report-file.js';

interface OutputOptions {
  readonly json?: string;
  readonly html?: string;
  readonly svg?: string;
}

interface MergeOptions extends OutputOptions {
  readonly allowMissing: boolean;
}

const MERGE_HELP = `
Each machine, or each job of a matrix, runs one part of a plan with --shard; what they wrote is merged:
  $ lacuna bench --sweep min-order --shard 1/2 --json part-1.json
  $ lacuna bench --sweep min-order --shard 2/2 --json part-2.json
  $ lacuna report merge part-*.json --json report.json --svg min-order.svg

The result is what a run without --shard would have written, but for times, and for the list of its parts.

Exit codes: 0 all of the plan is there, every migration completed and was verified, 1 not so (what is there is
merged all the same), 2 wrong usage, or reports that are not parts of one plan.`;

/** Adds `lacuna report` to the program. */
export function addReportCommand({ program, done }: CliContext): void {
  const report = program
    .command('report')
    .summary('merge and show reports of lacuna bench')
    .description('Works with the reports that lacuna bench writes with --json.');
  report
    .command('merge')
    .summary('join the reports of shards')
    .description('Joins the reports of the shards of one plan.')
    .argument('<files...>', 'reports of lacuna bench --shard')
    .option('--json <file>', 'where the merged report goes')
    .option('--html <file>', 'the report as a page with charts, for the browser')
    .option('--svg <file>', 'where the charts of a sweep go')
    .option('--allow-missing', 'exit code 0 although shards or runs are missing', false)
    .addHelpText('after', MERGE_HELP)
    .action((files: string[], options: MergeOptions) => {
      done(merge(files, options));
    });
  report
    .command('show')
    .summary('print the table of a report')
    .description('Prints the table of a report, and draws its charts.')
    .argument('<file>', 'a report of lacuna bench')
    .option('--html <file>', 'the report as a page with charts, for the browser')
    .option('--svg <file>', 'where the charts of a sweep go')
    .action((file: string, { html, svg }: OutputOptions) => {
      const stored = readBenchReport(file);
      refuseChartsWithoutSweep(stored, svg);
      deliver(stored, { json: undefined, html, svg });
      done(stored.runs.every(isGood) ? ExitCode.ok : ExitCode.verificationFailed);
    });
  for (const command of report.commands) {
    command.showHelpAfterError(`(lacuna report ${command.name()} --help tells more)`);
  }
}

function merge(files: readonly string[], { json, html, svg, allowMissing }: MergeOptions): number {
  const merged = mergeReports(files.map((file) => ({ file, report: readBenchReport(file) })));
  refuseChartsWithoutSweep(merged.report, svg);
  deliver(merged.report, { json, html, svg });
  for (const line of merged.missing) {
    console.error(`${pc.yellow('missing:')} ${line}`);
  }
  if (merged.missing.length > 0 && !allowMissing) {
    return ExitCode.verificationFailed;
  }
  return merged.report.runs.every(isGood) ? ExitCode.ok : ExitCode.verificationFailed;
}

function refuseChartsWithoutSweep({ sweep }: BenchReport, svg: string | undefined): void {
  if (svg !== undefined && sweep === null) {
    throw new LacunaError('INVALID_ARGUMENT', '--svg draws a sweep, and this report is of none');
  }
}
