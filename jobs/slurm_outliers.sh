#!/bin/bash
# Outliers and near-duplicates of a finished run, as one job of Slurm.
#
#   sbatch jobs/slurm_outliers.sh RUN [options of `toolkit outliers`]
#   sbatch --gres=gpu:1 jobs/slurm_outliers.sh results/vehicles --contamination 0.01
#
# Writes outliers.csv, duplicates.csv and contact sheets into RUN. About as long as the neighbour passes of the run
# where its forests are no longer in its cache, else a fifth of that.
#SBATCH --job-name=toolkit-outliers
#SBATCH --output=%x-%j.log --open-mode=append
#SBATCH --time=04:00:00 --mem=64G --cpus-per-task=8
#SBATCH --requeue --signal=USR1@120
set -eu
run=$1
shift
python=${PYTHON:-.venv/bin/python}
supervised() {
  srun --ntasks=1 "$python" -m toolkit.distribute.supervisor --mark "$run/.killed" -- "$python" -m toolkit "$@"
}
supervised outliers "$run" "$@"
supervised duplicates "$run"
