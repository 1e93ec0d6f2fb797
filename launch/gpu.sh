#!/usr/bin/env bash
# Runs a config on the GPUs of this machine, or of every machine of a Slurm job:
#
#   bash launch/gpu.sh --config=configs/FILE.py --workdir=DIR
#   srun --nodes=4 --ntasks-per-node=1 bash launch/gpu.sh --config=... --workdir=...
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh

# One process of a machine prepares .venv, the others wait; so do machines that
# share this folder.
exec 9>.venv.lock
flock 9
prepare cuda
flock --unlock 9

distributed=()
[ "${SLURM_NTASKS:-1}" -eq 1 ] || distributed=(--distributed)
exec python -m synthjax.main "${distributed[@]}" "$@"
