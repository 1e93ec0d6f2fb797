#!/usr/bin/env bash
# Runs a config on every worker of a Cloud TPU VM:
#
#   ZONE=us-central2-b bash launch/tpu.sh create NAME v4-32
#   ZONE=us-central2-b bash launch/tpu.sh install NAME   # this commit
#   ZONE=us-central2-b bash launch/tpu.sh run NAME \
#     --config=configs/FILE.py --workdir=gs://BUCKET/FOLDER
#   ZONE=us-central2-b bash launch/tpu.sh follow NAME    # its log, again
#   ZONE=us-central2-b bash launch/tpu.sh stop NAME      # saves and ends the run
#   ZONE=us-central2-b bash launch/tpu.sh delete NAME
#
# or all of it, again after each preemption until the run is done, then delete:
#
#   SPOT=1 ZONE=us-central2-b bash launch/tpu.sh keep NAME v4-32 \
#     --config=configs/FILE.py --workdir=gs://BUCKET/FOLDER
#
# WEIGHTS="glide clip_rn50" are fetched by `install` and `keep` on every worker, as
# `python -m synthjax.weights fetch` names them; a new VM has none.
#
# PROJECT=... and SPOT=1 are passed on to gcloud. QUEUED=1 asks for the VM as a queued
# resource and waits until it is there; `delete` needs it too. RUNTIME=... is the
# image of the VM, by default the one that Google names for the type (v5litepod-16,
# v5p-8, v6e-8, ...). The run goes on when this
# terminal is closed: `run` and `keep` only follow its log, and the same command
# follows on. A run goes on where the bucket says that it stopped. `keep` ends with
# the run's exit code: 0 when it is done, 2 when the config cannot be run, 130 after
# `stop`; and with any other one after FAILURES=5 in a row, waiting PAUSE=60 seconds
# before each new attempt.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
show_help "$@"
[ $# -ge 2 ] || usage
: "${ZONE:?Set ZONE, such as ZONE=us-central2-b.}"
command -v gcloud >/dev/null || {
  echo "launch/tpu.sh needs the Google Cloud SDK (gcloud)." >&2
  exit 1
}
action=$1 name=$2
shift 2
where=(--zone="$ZONE")
[ -z "${PROJECT:-}" ] || where+=(--project="$PROJECT")

tpu() {
  gcloud compute tpus tpu-vm "$@" "${where[@]}"
}

# Runs a command on every worker at once.
everywhere() {
  tpu ssh "$name" --worker=all --command="$1"
}

queue() {
  gcloud compute tpus queued-resources "$@" "${where[@]}"
}

runtime() {
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

create() {
  local options=(--accelerator-type="$1") image=${RUNTIME:-$(runtime "$1")}
  [ "${SPOT:-0}" != 1 ] || options+=(--spot)
  if [ "${QUEUED:-0}" = 1 ]; then
    # It may have waited before, and this script was ended.
    [ -n "$(place_in_queue)" ] || queue create "$name" --node-id="$name" \
      "${options[@]}" --runtime-version="$image" || return
    wait_in_queue
  else
    tpu create "$name" "${options[@]}" --version="$image"
  fi
}

# Prints WAITING_FOR_RESOURCES, ACTIVE, ..., or nothing where nothing is asked for.
place_in_queue() {
  queue describe "$name" --format='value(state.state)' 2>/dev/null || true
}

# Waits until a queued VM is there. What has come to nothing is removed.
wait_in_queue() {
  local place before=
  while true; do
    place=$(place_in_queue)
    [ "$place" = "$before" ] || echo "Queued as $name: ${place:-gone}."
    before=$place
    case $place in
      ACTIVE) return ;;
      "") return 1 ;;
      FAILED | SUSPENDED)
        remove --quiet || true
        return 1
        ;;
    esac
    sleep "${PAUSE:-60}"
  done
}

remove() {
  if [ "${QUEUED:-0}" = 1 ]; then
    queue delete "$name" --force "$@" # and its VM
  else
    tpu delete "$name" "$@"
  fi
}

# In a process of its own, whose end removes the archive.
install() (
  folder=$(mktemp -d)
  trap 'rm -r "$folder"' EXIT
  git archive --format=tar.gz --output="$folder/synthjax.tar.gz" HEAD &&
    tpu scp "$folder/synthjax.tar.gz" "$name":synthjax.tar.gz --worker=all &&
    # Python 3.11 or later, which the image of the VM may lack.
    everywhere "set -e; mkdir -p synthjax; tar xzf synthjax.tar.gz -C synthjax
      python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        sudo apt-get install --yes python3.11-venv
      cd synthjax; . launch/environment.sh; prepare tpu; touch installed"
)

# Fetches released weights, where they are not there yet.
fetch() {
  [ -z "${WEIGHTS:-}" ] || everywhere "cd synthjax; . .venv/bin/activate
    python -m synthjax.weights fetch $WEIGHTS"
}

# Starts a run, if none is under way, and follows its log to the end. Beside it
# lie the pid of Python, run.pid, and its exit code in the end, run.code.
run() {
  local arguments
  arguments=$(printf '%q ' "$@")
  everywhere "cd synthjax; . .venv/bin/activate
    if ! kill -0 \$(cat run.pid) 2>/dev/null; then
      rm -f run.code run.pid run.stopped
      nohup bash -c 'python -m synthjax.main --distributed \"\$@\" & echo \$! >run.pid
        code=0; wait \$! || code=\$?; [ ! -e run.stopped ] || code=130
        echo \$code >run.code' run $arguments >run.log 2>&1 </dev/null &
      until [ -s run.pid ]; do sleep 0.1; done
    fi
    tail --pid=\$(cat run.pid) --lines=+1 --follow run.log"
}

# Prints the exit code of the run that has ended; nothing where there is none.
code_of_run() {
  tpu ssh "$name" --worker=0 --command="cat synthjax/run.code" 2>/dev/null |
    tr -cd '0-9'
}

# Prints READY, PREEMPTED, ..., or nothing where there is no such VM.
state() {
  tpu describe "$name" --format='value(state)' 2>/dev/null || true
}

keep() {
  local type=$1 failures=0 code began
  shift
  while true; do
    if [ "$(state)" != READY ]; then
      [ -z "$(state)" ] || remove --quiet || true
      # There may be no capacity for a while: that is not counted.
      until create "$type"; do sleep "${PAUSE:-60}"; done
    fi
    # Where this fails, so will the run.
    everywhere "test -e synthjax/installed" || install || true
    began=$SECONDS
    code=
    if fetch; then
      run "$@" || true # the connection may end before the run does
      [ $((SECONDS - began)) -lt 600 ] || failures=0
      code=$(code_of_run || true)
    fi
    case $code in
      0 | 2 | 130) return "$code" ;;
      "") [ "$(state)" = READY ] || continue ;; # preempted
      143) continue ;;                         # about to be
    esac
    failures=$((failures + 1))
    echo "tpu.sh: exit code ${code:-unknown}, attempt $failures of" \
      "${FAILURES:-5}." >&2
    [ $failures -lt "${FAILURES:-5}" ] || return "${code:-1}"
    sleep "${PAUSE:-60}"
  done
}

case $action in
  create)
    [ $# -ge 1 ] || usage
    create "$1"
    ;;
  install) install && fetch ;;
  run)
    [ $# -ge 1 ] || usage
    run "$@"
    ;;
  keep)
    [ $# -ge 2 ] || usage
    keep "$@"
    ;;
  follow) everywhere "tail --lines=+1 --follow synthjax/run.log" ;;
  stop)
    # Training saves and ends; at other work of joined processes JAX only notes
    # the signal.
    everywhere "cd synthjax; touch run.stopped; pid=\$(cat run.pid); kill \$pid
      for i in \$(seq 60); do kill -0 \$pid 2>/dev/null || exit 0; sleep 1; done
      kill -9 \$pid"
    ;;
  delete) remove ;;
  *) usage ;;
esac
