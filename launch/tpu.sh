#!/usr/bin/env bash
# Runs a config on every worker of a Cloud TPU VM:
#
#   ZONE=us-central2-b bash launch/tpu.sh create NAME v4-32
#   ZONE=us-central2-b bash launch/tpu.sh install NAME   # this commit
#   ZONE=us-central2-b bash launch/tpu.sh run NAME \
#     --config=configs/FILE.py --workdir=gs://BUCKET/FOLDER
#   ZONE=us-central2-b bash launch/tpu.sh stop NAME      # ends the run
#   ZONE=us-central2-b bash launch/tpu.sh delete NAME
#
# PROJECT=... and SPOT=1 are passed on to gcloud. The run goes on when this
# terminal is closed: `run` only follows its log. After a preemption, create,
# install and run again; it goes on where the bucket says that it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
  exit 2
}
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

# Runs a command on every worker at once.
everywhere() {
  gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all \
    --command="$1"
}

case $action in
  create)
    [ $# -ge 1 ] || usage
    options=(--accelerator-type="$1")
    options+=(--version="${RUNTIME:-tpu-ubuntu2204-base}")
    [ "${SPOT:-0}" != 1 ] || options+=(--spot)
    gcloud compute tpus tpu-vm create "$name" "${where[@]}" "${options[@]}"
    ;;
  install)
    archive=$(mktemp -d)/synthjax.tar.gz
    trap 'rm -r "$(dirname "$archive")"' EXIT
    git archive --format=tar.gz --output="$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$name":synthjax.tar.gz \
      "${where[@]}" --worker=all
    # Python 3.11 or later, which the image of the VM may lack.
    everywhere "set -e; mkdir -p synthjax; tar xzf synthjax.tar.gz -C synthjax
      python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        sudo apt-get install --yes python3.11-venv
      cd synthjax; . launch/environment.sh; prepare tpu"
    ;;
  run)
    [ $# -ge 1 ] || usage
    arguments=$(printf '%q ' "$@")
    everywhere "cd synthjax; . .venv/bin/activate
      nohup python -m synthjax.main --distributed $arguments >run.log 2>&1 &
      echo \$! >run.pid; tail --pid=\$! --lines=+1 --follow run.log"
    ;;
  stop) everywhere "kill \$(cat synthjax/run.pid)" ;;
  delete) gcloud compute tpus tpu-vm delete "$name" "${where[@]}" ;;
  *) usage ;;
esac
