#!/bin/bash
# One picture per cluster, as one job of Slurm that goes on after its time limit or a preemption.
#
#   sbatch jobs/slurm_cvae.sh IMAGES LABELS OUT [options of `toolkit cvae train`]
#   sbatch --gres=gpu:1 jobs/slurm_cvae.sh faces/crops results/faces results/cvae --image_size 128
#
# Trains on IMAGES with the LABELS of a run (its folder) or a CSV, then writes the pictures into OUT/pictures. On 2
# processors 2,000 images of 64 pixels take about 8 s an epoch and 1 GiB.
#SBATCH --job-name=toolkit-cvae
#SBATCH --output=%x-%j.log --open-mode=append
#SBATCH --time=08:00:00 --mem=16G --cpus-per-task=4
#SBATCH --requeue --signal=USR1@120
set -eu
images=$1 labels=$2 out=$3
shift 3
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"
srun --ntasks=1 "$python" -m toolkit.distribute.supervisor --mark "$out/killed" -- \
  "$python" -m toolkit cvae train --image_path "$images" --labels_path "$labels" --out "$out" "$@"
exec "$python" -m toolkit cvae generate --cluster all --weights "$out/weights/best.pt" --out "$out/pictures"
