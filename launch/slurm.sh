#!/usr/bin/env bash
#SBATCH --job-name=synthjax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
#
# Runs a config as a Slurm job that goes on after preemptions and time limits:
#
#   sbatch [--nodes=4 --partition=... ...] launch/slurm.sh \
#     --config=configs/FILE.py --workdir=DIR
#
# from the root of the repository, on a file system that all nodes share. Before
# the time limit and at a preemption, Slurm sends SIGTERM to the tasks: they save
# and exit with code 143, and the job goes back into the queue. With any other
# code it ends. Where nodes have no network, install on one that has, by
# `bash -c '. launch/environment.sh && prepare cuda'`, and add
# --export=ALL,SYNTHJAX_INSTALL=0.
set -euo pipefail
if [[ " $* " =~ \ (-h|--help|--helpfull)\  ]]; then
  sed -n '2,/^set/s/^#\( \|$\)//p' "$0"
  exit
fi
# sbatch runs a copy of this file, which lies elsewhere.
cd "${SLURM_SUBMIT_DIR:?Start it with sbatch, from the root of the repository.}"
[ -f launch/gpu.sh ] || {
  echo "There is no launch/gpu.sh in $PWD: submit from the root of the" \
    "repository." >&2
  exit 2
}

status=0
# All or none: a process that is left alone would wait for the others.
srun --kill-on-bad-exit=1 bash launch/gpu.sh "$@" || status=$?
if [ $status = 143 ]; then
  echo "Saved at a preemption or time limit" \
    "(start ${SLURM_RESTART_COUNT:-0}): back into the queue."
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
