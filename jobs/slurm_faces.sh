#!/bin/bash
# Photographs to face crops and descriptors, as one job of Slurm that goes on after its time limit or a preemption.
#
#   sbatch jobs/slurm_faces.sh PHOTOGRAPHS OUT [options of `toolkit faces embed`]
#   sbatch --cpus-per-task=16 jobs/slurm_faces.sh photographs.zip results/faces --model dlib
#
# Writes OUT/faces (crops/, faces.csv) and OUT/descriptors. About 0.07 s per photograph and processor with dlib;
# 300 MiB for every processor.
#SBATCH --job-name=toolkit-faces
#SBATCH --output=%x-%j.log --open-mode=append
#SBATCH --time=08:00:00 --mem=16G --cpus-per-task=8
#SBATCH --requeue --signal=USR1@120
set -eu
photographs=$1 out=$2
shift 2
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"
supervised() {
  srun --ntasks=1 "$python" -m toolkit.distribute.supervisor --mark "$out/killed" -- "$python" -m toolkit "$@"
}
supervised faces detect "$photographs" --out "$out/faces"
supervised faces embed "$out/faces" --out "$out/descriptors" "$@"
