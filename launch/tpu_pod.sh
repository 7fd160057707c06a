#!/usr/bin/env bash
# Trains on a Cloud TPU pod through gcloud: makes the pod, sends this checkout to all workers and starts them, follows
# the logs, deletes it. After a preemption the same create and run resume from the newest checkpoint.
set -euo pipefail
source "$(dirname "$0")/common.sh"

usage() {
  cat <<'HELP'
usage: launch/tpu_pod.sh COMMAND NAME [OPTION...] [-- train --config C --workdir gs://BUCKET/RUN [...]]

commands
  create  make the pod, or queue for it (--queued); one that was preempted or has failed is deleted first
  run     send the checkout's commit to all workers, install it, and start the command there with --distributed
  logs    follow the log of a worker
  status  the pod's state, and what its workers do
  stop    SIGTERM: save a checkpoint and end; the pod stays
  delete  delete the pod, and its place in the queue (--queued)

options
  --accelerator A  type and size (create; default: v5litepod-256)
  --version V      image of the workers (create; default: by the accelerator, v2-alpha-tpuv5-lite for v5litepod)
  --spot           cheaper, may be preempted (create)
  --queued         as a queued resource (create, status, delete)
  --zone Z, --project P   default: those of gcloud's configuration
  --worker W       a number, or all (logs; default: 0)
  --ref REF        the commit to send (run; default: HEAD)
  --dry-run        print the commands and run none
  --help           this text

  launch/tpu_pod.sh create my-pod --accelerator v5litepod-256 --zone us-west4-a --queued --spot
  launch/tpu_pod.sh run my-pod --zone us-west4-a -- train --config style_scenes/rdm \
    --workdir gs://my-bucket/runs/rdm
HELP
}

on_workers() { # on_workers WORKER COMMAND
  do_ gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="$1" --command="$2"
}

image() { # the image that goes with the accelerator
  case "$accelerator" in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) refuse "no image known for --accelerator $accelerator; name one with --version" ;;
  esac
}

describe() { # the command that prints the state
  local what=(tpu-vm describe "$name" "${where[@]}" "--format=value(state)")
  [ "$queued" = no ] || what=(queued-resources describe "$name" "${where[@]}" "--format=value(state.state)")
  do_ gcloud compute tpus "${what[@]}"
}

state() { # the pod's state, NONE where there is none; other failures, as of the network, are gcloud's
  local output
  if output=$(describe 2>&1); then echo "$output"
  elif grep -qi 'not.found' <<<"$output"; then echo NONE
  else echo "$output" >&2; return 1
  fi
}

create() {
  local found=NONE version
  version=${image:-$(image)}
  if [ "$dry_run" = yes ]; then describe; else found=$(state); fi
  case "$found" in
    NONE) ;;
    PREEMPTED | TERMINATED | SUSPENDED | FAILED) say "$name is $found: making it again"; delete ;;
    *) say "$name is there: $found"; return ;;
  esac
  if [ "$queued" = yes ]; then
    do_ gcloud compute tpus queued-resources create "$name" --node-id="$name" "${where[@]}" \
      --accelerator-type="$accelerator" --runtime-version="$version" "${spot[@]}"
  else
    do_ gcloud compute tpus tpu-vm create "$name" "${where[@]}" \
      --accelerator-type="$accelerator" --version="$version" "${spot[@]}"
  fi
}

check_workdir() { # a relative folder would be one on each worker, lost with it
  local before="" argument
  for argument in "$@"; do
    case "$before $argument" in
      "--workdir gs://"* | "--workdir /"* | *" --workdir=gs://"* | *" --workdir=/"*) return ;;
    esac
    before=$argument
  done
  refuse "--workdir must be one that all workers see and that outlives them: gs://BUCKET/RUN, or a mounted folder"
}

run() {
  local archive
  [ $# -gt 0 ] || refuse "no rdm command: run $name -- train --config C --workdir gs://BUCKET/RUN"
  check_workdir "$@"
  [ "$ref" != HEAD ] || git -C "$root" diff --quiet HEAD || say "changes that are not committed are not sent"
  archive=${TMPDIR:-/tmp}/rdm_jax-$name.tar.gz
  do_ git -C "$root" archive --format=tar.gz --output="$archive" "$ref"
  do_ gcloud compute tpus tpu-vm scp "$archive" "$name:rdm_jax.tar.gz" "${where[@]}" --worker=all
  # start refuses where a training runs, but its code would have been replaced under it by then.
  on_workers all "if pgrep -F rdm.pid 2>/dev/null; then echo 'a training runs here; stop it first' >&2; exit 1; fi; mkdir -p rdm_jax && \
tar -xzf rdm_jax.tar.gz -C rdm_jax && rdm_jax/launch/tpu_worker.sh start $(show "$@")"
  [ "$dry_run" = yes ] || say "started; launch/tpu_pod.sh logs $name ${where[*]}"
}

status() {
  local found
  if [ "$dry_run" = yes ]; then describe; found=READY; else found=$(state); echo "$name: $found"; fi
  case "$found" in READY | ACTIVE) on_workers all "rdm_jax/launch/tpu_worker.sh status" ;; esac
}

delete() {
  if [ "$queued" = yes ]; then
    do_ gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
  else
    do_ gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet
  fi
}

root=$(cd "$(dirname "$0")/.." && pwd)
accelerator=v5litepod-256 image="" ref=HEAD worker=0
queued=no
spot=() where=()
case "${1:-}" in
  create | run | logs | status | stop | delete) action=$1 ;;
  --help) usage; exit 0 ;;
  *) refuse "unknown command ${1:-}" ;;
esac
case "${2:-}" in
  --help) usage; exit 0 ;;
  [a-z]*) name=$2 ;;
  *) refuse "$action needs the pod's name" ;;
esac
shift 2
while [ $# -gt 0 ]; do
  case "$1" in
    --accelerator) accelerator=${2:?--accelerator needs a type}; shift 2 ;;
    --version) image=${2:?--version needs an image}; shift 2 ;;
    --zone | --project) where+=("$1=${2:?$1 needs a name}"); shift 2 ;;
    --worker) worker=${2:?--worker needs a number or all}; shift 2 ;;
    --ref) ref=${2:?--ref needs a commit}; shift 2 ;;
    --spot) spot=(--spot); shift ;;
    --queued) queued=yes; shift ;;
    --dry-run) dry_run=yes; shift ;;
    --help) usage; exit 0 ;;
    --) shift; break ;;
    *) refuse "unknown option $1 (the rdm command stands behind --)" ;;
  esac
done

case "$action" in
  run) run "$@" ;;
  logs) on_workers "$worker" "tail -n 100 -F rdm.log" ;;
  stop) on_workers all "rdm_jax/launch/tpu_worker.sh stop" ;;
  *) "$action" ;;
esac
