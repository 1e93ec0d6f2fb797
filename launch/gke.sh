#!/usr/bin/env bash
# Runs a config on Google Kubernetes Engine, as a JobSet:
#
#   export IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/synthjax:tpu
#   PUSH=1 bash launch/docker.sh build tpu
#   bash launch/gke.sh run NAME v6e:4x4 \
#     --config=configs/FILE.py --workdir=gs://BUCKET/FOLDER
#   bash launch/gke.sh follow NAME    # the log of the first host
#   bash launch/gke.sh stop NAME      # saves and ends the run
#
# `show` instead of `run` prints the manifest. The second word is a TPU (v4, v5e, v5p
# or v6e) and its topology, with CHIPS=4 of each host; or GKE's name of a GPU and how
# many a host has, on HOSTS=1 hosts, with the image of `docker.sh build cuda`:
#
#   HOSTS=2 bash launch/gke.sh run NAME nvidia-h100-80gb:8 \
#     --config=configs/FILE.py --workdir=gs://BUCKET/FOLDER
#
# The cluster has a node pool of that kind, and the JobSet controller
# (https://jobset.sigs.k8s.io). SPOT=1 asks for spot nodes. SERVICE_ACCOUNT=... is the
# Kubernetes account that may write to the bucket. WEIGHTS="glide clip_rn50" are
# fetched on each host first. After a preemption or a failure all hosts start again,
# at most RESTARTS=20 times, and go on where the bucket says; where the config cannot
# be run (exit code 2) the JobSet ends.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
show_help "$@"
[ $# -ge 2 ] || usage
action=$1 name=$2
shift 2

# Prints arguments as a list in YAML.
yaml_list() {
  local argument separator=
  printf '['
  for argument; do
    printf "%s'%s'" "$separator" "${argument//\'/\'\'}"
    separator=', '
  done
  printf ']'
}

manifest() {
  local device=$1 kind=${1%:*} amount=${1#*:} hosts=${HOSTS:-1}
  local selector resource placed='' extra='' chips slice
  shift
  [ "$kind" != "$device" ] || usage
  case $kind in
    v4) slice=tpu-v4-podslice ;;
    v5e) slice=tpu-v5-lite-podslice ;;
    v5p) slice=tpu-v5p-slice ;;
    v6e) slice=tpu-v6e-slice ;;
    *) slice= ;;
  esac
  if [ -n "$slice" ]; then
    chips=$((${amount//x/*})) # of the whole slice: 4x4 is 16
    amount=$((chips < ${CHIPS:-4} ? chips : ${CHIPS:-4}))
    hosts=$((chips / amount))
    selector="cloud.google.com/gke-tpu-accelerator: $slice
                cloud.google.com/gke-tpu-topology: ${device#*:}"
    resource="google.com/tpu: $amount"
    # A node pool is a slice, where a cluster has several.
    placed="
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool"
    # JAX finds the hosts of a slice by itself. Chips need the rights of root.
    extra="securityContext: {privileged: true, runAsUser: 0}"
  else
    selector="cloud.google.com/gke-accelerator: $kind"
    resource="nvidia.com/gpu: $amount"
    if [ "$hosts" -gt 1 ]; then
      extra="env:
                    - {name: JAX_COORDINATOR_ADDRESS, value: '$name-hosts-0-0.$name:1234'}
                    - {name: JAX_NUM_PROCESSES, value: '$hosts'}
                    - name: JAX_PROCESS_ID
                      valueFrom:
                        fieldRef:
                          fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']"
    fi
  fi
  [ "$hosts" = 1 ] || set -- --distributed "$@"
  [ "${SPOT:-0}" != 1 ] || selector+="
                cloud.google.com/gke-spot: 'true'"
  cat <<EOF_MANIFEST
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name$placed
spec:
  failurePolicy:
    maxRestarts: ${RESTARTS:-20}
    rules:
      - action: FailJobSet # the config cannot be run
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: hosts
      replicas: 1
      template:
        spec:
          completionMode: Indexed
          completions: $hosts
          parallelism: $hosts
          backoffLimit: 0 # one host that fails ends all, which then start again
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: synthjax, operator: In, values: [2]}
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 120 # to save
              serviceAccountName: ${SERVICE_ACCOUNT:-default}
              nodeSelector:
                $selector
              volumes:
                - {name: cache, emptyDir: {}}
                - {name: memory, emptyDir: {medium: Memory}} # of reading processes
EOF_MANIFEST
  [ -z "${WEIGHTS:-}" ] || {
    # shellcheck disable=SC2086
    cat <<EOF_MANIFEST
              initContainers:
                - name: weights
                  image: $IMAGE
                  args: $(yaml_list weights fetch $WEIGHTS)
                  volumeMounts:
                    - {name: cache, mountPath: /cache}
EOF_MANIFEST
  }
  cat <<EOF_MANIFEST
              containers:
                - name: synthjax
                  image: $IMAGE
                  args: $(yaml_list run "$@")
                  resources:
                    limits: {$resource}
                  volumeMounts:
                    - {name: cache, mountPath: /cache}
                    - {name: memory, mountPath: /dev/shm}
                  ${extra:-env: []}
EOF_MANIFEST
}

[ "$action" = show ] || command -v kubectl >/dev/null || {
  echo "launch/gke.sh needs kubectl." >&2
  exit 1
}
case $action in
  show | run)
    [ $# -ge 2 ] || usage
    : "${IMAGE:?Set IMAGE, which launch/docker.sh has built and pushed.}"
    text=$(manifest "$@")
    if [ "$action" = show ]; then
      echo "$text"
    else
      kubectl apply --filename=- <<<"$text"
    fi
    ;;
  follow)
    kubectl logs --follow --container=synthjax \
      --selector="jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0"
    ;;
  stop) kubectl delete jobset "$name" ;;
  *) usage ;;
esac
