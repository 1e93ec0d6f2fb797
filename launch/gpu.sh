#!/usr/bin/env bash
# Runs a config on the GPUs of this machine, or of several:
#
#   bash launch/gpu.sh --config=configs/FILE.py --workdir=DIR
#
# On the machines of a Slurm job, one task for each (or see launch/slurm.sh):
#
#   srun --nodes=4 --ntasks-per-node=1 bash launch/gpu.sh --config=... --workdir=...
#
# On others, by hand: the same command on each, within five minutes, with the
# address of the first one, its port free, and the machine's own number, from 0:
#
#   JAX_COORDINATOR_ADDRESS=HOST:1234 JAX_NUM_PROCESSES=4 JAX_PROCESS_ID=0 \
#     bash launch/gpu.sh --config=... --workdir=...
#
# The workdir is a folder that all machines share, or gs://BUCKET/FOLDER. After an
# exit code of 143 a signal stopped the run, which is saved: the same command resumes.
# SYNTHJAX_INSTALL=0 installs nothing, where machines have no network.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
show_help "$@"

# One process of a machine prepares .venv, the others wait; so do machines that
# share this folder.
exec 9>.venv.lock
flock 9
prepare cuda
flock --unlock 9

distributed=()
if [ -n "${JAX_COORDINATOR_ADDRESS:-}" ]; then
  : "${JAX_NUM_PROCESSES:?How many machines? Set JAX_NUM_PROCESSES.}"
  : "${JAX_PROCESS_ID:?Which machine is this, from 0? Set JAX_PROCESS_ID.}"
  distributed=(--distributed)
elif [ "${SLURM_NTASKS:-1}" -gt 1 ]; then
  distributed=(--distributed)
  # Under Slurm, JAX gives each task one GPU. Where a machine has one task, that
  # task takes them all.
  gpus=${SLURM_GPUS_ON_NODE:-1}
  if [ "${SLURM_NTASKS_PER_NODE:-1}" = 1 ] && [ "$gpus" -gt 1 ]; then
    export JAX_LOCAL_DEVICE_IDS=${JAX_LOCAL_DEVICE_IDS:-$(seq -s, 0 $((gpus - 1)))}
  fi
fi
exec python -m synthjax.main "${distributed[@]}" "$@"
