#!/usr/bin/env bash
# Runs the tests, the fast ones first:
#
#   bash launch/test.sh                         all but those that need a GPU
#   bash launch/test.sh -m "not slow"           the fast ones
#   bash launch/test.sh -m gpu                  those that need a GPU
#   bash launch/test.sh tests/diffusion/test_samplers.py    any arguments of pytest
#   SYNTHJAX_TORCH=1 bash launch/test.sh        and parity with PyTorch
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
prepare dev
[ "${SYNTHJAX_TORCH:-0}" != 1 ] || prepare torch

exec python -m pytest "$@"
