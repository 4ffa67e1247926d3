#!/bin/bash
#SBATCH --job-name=lacuna-sweep
#SBATCH --array=1-4
#SBATCH --exclusive
#SBATCH --cpus-per-task=2
#SBATCH --mem=6G
#SBATCH --time=00:30:00
#
# A sweep as a Slurm array: four tasks, a shard each, then a job that joins what they measured.
#   bash slurm-array.sh        submits both, with this folder for the reports
# Each task has a node to itself (--exclusive), so that none measures another. lacuna must be on the nodes' PATH.
set -euo pipefail

if [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then
  array=$(sbatch --parsable "$0")
  # afterany: a shard that failed is told as missing, and the others are joined all the same.
  sbatch --job-name=lacuna-merge --dependency="afterany:${array%%;*}" --output=merge-%j.out \
    --wrap='lacuna report merge part-*.json --json report.json --svg min-order.svg'
  exit
fi

lacuna bench --sweep min-order --runs 3 --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
  --json "part-$SLURM_ARRAY_TASK_ID.json"
