#!/bin/bash
# The grid search of a configuration as jobs of Slurm: an array of tasks for each stage, then tables and report.
#
#   bash jobs/slurm_grid.sh CONFIG OUT [options of sbatch as `toolkit submit` takes them]
#   bash jobs/slurm_grid.sh jobs/digits.yaml results/digits --partition gpu --gres gpu:1 --time 04:00:00 --mem 64G
#
# Time and memory of every task: `toolkit plan CONFIG`. How far it is: `toolkit status OUT`. What was lost:
# `toolkit resume OUT`. OUT must be a folder that all nodes see.
set -eu
config=$1 out=$2
shift 2
python=${PYTHON:-.venv/bin/python}
"$python" -m toolkit plan "$config"
exec "$python" -m toolkit submit "$config" --out "$out" --slurm "$@"
