#!/usr/bin/env bash
# Builds an image of synthjax, and runs a config in a container:
#
#   bash launch/docker.sh build cuda    # or cpu, or tpu: the targets of launch/Dockerfile
#   bash launch/docker.sh run cuda --config=configs/FILE.py --workdir=runs/NAME
#
# The container sees the root of the repository, so that workdirs and configs are
# those of this machine, and runs as you. DATA=/data is mounted there, to be read.
# Released weights lie in SYNTHJAX_CACHE, ~/.cache/synthjax by default; any other
# command fetches them:
#
#   bash launch/docker.sh run cuda weights fetch glide clip_rn50
#
# IMAGE=HOST/PROJECT/synthjax:cuda names the image (synthjax:TARGET), and PUSH=1
# pushes it to that registry, where launch/gke.sh takes it from.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
show_help "$@"
[ $# -ge 2 ] || usage
action=$1 target=$2
shift 2
case $target in
  cpu | cuda | tpu) image=${IMAGE:-synthjax:$target} ;;
  *) usage ;;
esac
command -v docker >/dev/null || {
  echo "launch/docker.sh needs Docker." >&2
  exit 1
}

case $action in
  build)
    # The version of the wheel: vX.Y.Z-N-gCOMMIT, N commits after a tag, is
    # X.Y.Z.postN+gCOMMIT.
    version=$(git describe --tags --match='v*' 2>/dev/null || echo v0.1.0)
    version=$(sed -E 's/^v//; s/-([0-9]+)-(g.*)$/.post\1+\2/' <<<"$version")
    docker build --file=launch/Dockerfile --target="$target" --tag="$image" \
      --build-arg=VERSION="$version" .
    [ "${PUSH:-0}" != 1 ] || docker push "$image"
    ;;
  run)
    [ $# -ge 1 ] || usage
    case $1 in
      --*) set -- run "$@" ;;
    esac
    cache=${SYNTHJAX_CACHE:-$HOME/.cache/synthjax}
    mkdir -p "$cache"
    # A run that is stopped saves first, which takes more than Docker's 10 s.
    options=(--rm --init --stop-timeout=120 --user="$(id -u):$(id -g)" --env=HOME=/tmp)
    options+=(--volume="$PWD:/repository" --workdir=/repository --volume="$cache:/cache")
    [ -z "${DATA:-}" ] || options+=(--volume="$DATA:$DATA:ro")
    [ "$target" != cuda ] || options+=(--gpus=all --shm-size=16g)
    [ "$target" != tpu ] || options+=(--privileged --net=host)
    [ ! -t 1 ] || options+=(--tty)
    exec docker run "${options[@]}" "$image" "$@"
    ;;
  *) usage ;;
esac
