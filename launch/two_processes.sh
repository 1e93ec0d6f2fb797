#!/usr/bin/env bash
# Runs a config in two processes on this machine's CPU, as two machines would:
#
#   bash launch/two_processes.sh --config=configs/FILE.py --workdir=DIR
#
# Each has DEVICES simulated devices, 4 by default. It shows what several machines
# do, and is no faster than one process. Where one fails, JAX ends the other
# after at most two minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
show_help "$@"
prepare

port=${PORT:-$(python -c 'import socket
with socket.socket() as free:
  free.bind(("127.0.0.1", 0))
  print(free.getsockname()[1])')}
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=2
export JAX_PLATFORMS=cpu JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES:-4}"

processes=()
for index in 0 1; do
  JAX_PROCESS_ID=$index python -m synthjax.main --distributed "$@" &
  processes+=($!)
done
trap 'kill "${processes[@]}" 2>/dev/null || true' TERM INT

# The code of the one that failed; 143 is that of a run that a signal stopped and
# is saved.
status=0
for process in "${processes[@]}"; do
  code=0
  wait "$process" || code=$?
  # Where this script gets a signal, `wait` ends before the process does.
  while kill -0 "$process" 2>/dev/null; do
    code=0
    wait "$process" || code=$?
  done
  [ $code = 0 ] || status=$code
done
exit $status
