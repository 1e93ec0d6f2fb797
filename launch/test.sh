#!/usr/bin/env bash
# Runs the tests:
#
#   bash launch/test.sh                    the fast ones: every capability is in
#   bash launch/test.sh --all              the slow ones too, as .ci/run does
#   bash launch/test.sh -m gpu             those that need a GPU, and nothing else
#   bash launch/test.sh tests/diffusion/test_samplers.py    any arguments of pytest
#   SYNTHJAX_TORCH=1 bash launch/test.sh   parity with PyTorch too
#
# The fast ones take about eleven minutes on two cores. Tests chosen by -m,
# by -k or by their file are run whether they are slow or fast.
#
# One process runs on each core, up to four; SYNTHJAX_WORKERS=1 runs all in one,
# as debuggers need it.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
show_help "$@"
prepare dev
[ "${SYNTHJAX_TORCH:-0}" != 1 ] || prepare torch

# With --all, in two runs: compiling takes most of the time of the fast tests, and
# so they are compiled without optimisation (tests/conftest.py). The slow ones,
# and those that compare with references, run as users' code does.
fast=(-m "not slow") rest=(-m "slow or golden") all=0 chosen=0 arguments=()
for argument; do
  case $argument in
    --all) all=1 && continue ;;
    -m* | -k* | *.py | *.py::* | tests | tests/*) fast=() chosen=1 ;;
    --pdb | --trace | -s) chosen=1 ;; # a terminal belongs to one process
  esac
  arguments+=("$argument")
done

cores=$(getconf _NPROCESSORS_ONLN)
workers=${SYNTHJAX_WORKERS:-$((cores < 4 ? cores : 4))}
if [ $chosen = 0 ] && [ "$workers" -gt 1 ] &&
  python -c 'import xdist' 2>/dev/null; then
  # The tests of a file share what they make, and so one process.
  arguments=(-n "$workers" --dist loadfile ${arguments[@]+"${arguments[@]}"})
fi
failed=0
python -m pytest ${fast[@]+"${fast[@]}"} ${arguments[@]+"${arguments[@]}"} ||
  failed=$?
if [ $all = 1 ] && [ ${#fast[@]} != 0 ]; then
  python -m pytest "${rest[@]}" ${arguments[@]+"${arguments[@]}"} || failed=$?
fi
exit $failed
