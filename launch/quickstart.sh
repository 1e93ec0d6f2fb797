#!/usr/bin/env bash
# Runs the whole path, from class names to accuracies, on this machine's CPU:
#
#   bash launch/quickstart.sh [WORKDIR [--config.field=value ...]]
#
# The same command goes on where an interrupted one stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
show_help "$@"
prepare

workdir=${1:-runs/quickstart}
[ $# -eq 0 ] || shift

# XLA's CPU backend asks for and gives back its memory in every step. Keeping it,
# in huge pages, makes training about 15 % faster for as much more memory. It
# speaks to Linux's C library alone; an empty GLIBC_TUNABLES= before the command
# undoes it.
tunables=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0
tunables+=:glibc.malloc.trim_threshold=34359738368:glibc.malloc.arena_max=1
export GLIBC_TUNABLES=${GLIBC_TUNABLES-$tunables}

# One simulated device for each core draws half as many images again as one
# device with all cores: small networks do not keep several threads busy. At
# most 8, a divisor of the batch; XLA_FLAGS= before the command undoes it.
devices=1
while [ $((2 * devices)) -le "$(getconf _NPROCESSORS_ONLN)" ] && [ $devices -lt 8 ]; do
  devices=$((2 * devices))
done
export XLA_FLAGS=${XLA_FLAGS---xla_force_host_platform_device_count=$devices}

exec python -m synthjax.main --config=configs/quickstart.py \
  --workdir="$workdir" "$@"
