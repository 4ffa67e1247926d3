import { LacunaError } from '../errors.js';
import type { BenchReport, BenchRun, ReportPart } from './schema.js';
import { summarise } from './summary.js';

/** A report and the file that it was read from. */
export interface ReportFile {
  readonly file: string;
  readonly report: BenchReport;
}

/** What the parts make together. */
export interface Merged {
  readonly report: BenchReport;
  /** What of the plan is in none of the parts, a line each; empty: it is whole. */
  readonly missing: readonly string[];
}

/**
 * Joins reports of one plan's shards: the runs in the plan's order, the summary made of all of them. What can be
 * joined once can be joined again with more.
 *
 * Throws INVALID_ARGUMENT if they are not parts of one plan, or a run is in two of them.
 */
export function mergeReports(files: readonly ReportFile[]): Merged {
  const [first] = files;
  if (first === undefined) {
    throw new LacunaError('INVALID_ARGUMENT', 'there is nothing to merge: name the files of the shards');
  }
  for (const other of files.slice(1)) {
    refuseIfDifferent(first, other);
  }
  const parts = partsOf(files);
  const runs = runsOf(files);
  const { plan, machine, command } = first.report;
  return {
    report: {
      ...first.report,
      createdAt: new Date().toISOString(),
      command: withoutShard(command),
      machine: parts[0]?.machine ?? machine,
      plan: { ...plan, shard: null },
      parts,
      runs,
      summary: summarise(runs),
    },
    missing: missingFrom(files, runs, parts),
  };
}

/** Parts of one plan have everything in common that decides what is run. */
function refuseIfDifferent(a: ReportFile, b: ReportFile): void {
  const described = ({ report }: ReportFile): Record<string, string> => ({
    ...report.plan.settings,
    "lacuna's version": report.machine.lacuna,
    'number of runs': String(report.plan.runs),
  });
  const ofA = described(a);
  const ofB = described(b);
  const differences = [...new Set([...Object.keys(ofA), ...Object.keys(ofB)])]
    .filter((name) => ofA[name] !== ofB[name])
    .map(
      (name) =>
        `${name} is ${ofA[name] ?? 'not set'} in ${a.file} and ${ofB[name] ?? 'not set'} in ${b.file}`,
    );
  if (differences.length > 0) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `the reports are not parts of one plan: ${differences.join('; ')}`,
    );
  }
  if (a.report.plan.digest !== b.report.plan.digest) {
    throw new LacunaError(
      'INVALID_ARGUMENT',
      `the reports are not parts of one plan: ${a.file} and ${b.file} were asked for the same, but their guests' memory maps differ`,
    );
  }
}

/** Every shard that went in, by its number. */
function partsOf(files: readonly ReportFile[]): ReportPart[] {
  const seen = new Map<number, string>();
  const parts: ReportPart[] = [];
  for (const { file, report } of files) {
    const { plan, runs, createdAt, command, machine } = report;
    const own =
      plan.shard === null
        ? report.parts
        : [{ shard: plan.shard, runs: runs.length, createdAt, command, machine }];
    for (const part of own) {
      const { index, count } = part.shard;
      const earlier = seen.get(index);
      if (earlier !== undefined) {
        throw new LacunaError(
          'INVALID_ARGUMENT',
          `shard ${index}/${count} is in ${earlier} and in ${file}: name each shard's report once`,
        );
      }
      seen.set(index, file);
      if (parts[0] !== undefined && parts[0].shard.count !== count) {
        throw new LacunaError(
          'INVALID_ARGUMENT',
          `${file} is of ${count} shards and ${seen.get(parts[0].shard.index)} of ${parts[0].shard.count}: ` +
            'one plan is split in one way',
        );
      }
      parts.push(part);
    }
  }
  return parts.sort((a, b) => a.shard.index - b.shard.index);
}

/** All runs, in the plan's order. */
function runsOf(files: readonly ReportFile[]): BenchRun[] {
  const seen = new Map<number, { run: BenchRun; file: string }>();
  for (const { file, report } of files) {
    for (const run of report.runs) {
      const { position, group } = run.point;
      const { runs, groups, shard } = report.plan;
      if (position >= runs || group >= groups) {
        throw new LacunaError(
          'INVALID_ARGUMENT',
          `${file}: run ${position} of group ${group} is not of its plan (${runs} runs in ${groups} groups)`,
        );
      }
      if (shard !== null && (group % shard.count) + 1 !== shard.index) {
        throw new LacunaError(
          'INVALID_ARGUMENT',
          `${file}: run ${position} of group ${group} is not of shard ${shard.index}/${shard.count}`,
        );
      }
      const earlier = seen.get(position);
      if (earlier !== undefined) {
        throw new LacunaError(
          'INVALID_ARGUMENT',
          `run ${position} is in ${earlier.file} and in ${file}: reports that overlap can't be merged`,
        );
      }
      seen.set(position, { run, file });
    }
  }
  return [...seen.entries()].sort(([a], [b]) => a - b).map(([, { run }]) => run);
}

function missingFrom(
  files: readonly ReportFile[],
  runs: readonly BenchRun[],
  parts: readonly ReportPart[],
): string[] {
  const { plan } = files[0]!.report;
  if (runs.length === plan.runs) {
    return [];
  }
  const count = parts[0]?.shard.count ?? 1;
  const here = new Set(parts.map(({ shard }) => shard.index));
  const absent = Array.from({ length: count }, (_, i) => i + 1).filter(
    (index) => parts.length > 0 && !here.has(index) && index <= plan.groups,
  );
  return [
    ...absent.map((index) => `shard ${index}/${count} is in none of the files`),
    `${plan.runs - runs.length} of the plan's ${plan.runs} runs are missing` +
      (absent.length === 0 ? ': a run was interrupted' : ''),
  ];
}

/** The command of the whole plan: `--shard` taken out. */
function withoutShard(command: string): string {
  return command.replace(/ --shard(?:=| +)\S+/, '');
}
