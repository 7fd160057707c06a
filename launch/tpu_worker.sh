#!/usr/bin/env bash
# What one worker of a TPU pod does for launch/tpu_pod.sh: installs the checkout that this file is in, and starts
# and stops the training, whose process outlives the connection.
set -euo pipefail
source "$(dirname "$0")/common.sh"

usage() {
  cat <<'HELP'
usage: launch/tpu_worker.sh [--dry-run] start RDM-ARGUMENTS... | stop | status

  start      installs where it must, and starts rdm with the arguments and --distributed; refused while one runs
  stop       SIGTERM to it: training saves a checkpoint and ends; returns when it has
  status     says whether it runs, and the log's last line
  --dry-run  print the commands and run none
  --help     this text

The log is ~/rdm.log, to which runs append. RDM names the command (default: .venv/bin/rdm, made by start).
HELP
}

home=${RDM_WORKER_HOME:-$HOME}
log=$home/rdm.log
pid=$home/rdm.pid

tell() { echo "$(uname -n): $*"; }
running() { [ -f "$pid" ] && kill -0 "$(cat "$pid")" 2>/dev/null; }

install() {
  cmp -s setup.py .venv/installed-setup.py && return
  # The TPU images' own Python may be older than the package wants; uv brings one.
  PIP_BREAK_SYSTEM_PACKAGES=1 do_ python3 -m pip install --quiet --user uv
  do_ python3 -m uv venv --quiet --clear --python 3.11 .venv
  do_ python3 -m uv pip install --quiet --python .venv/bin/python -e '.[tpu,gcs]'
  do_ cp setup.py .venv/installed-setup.py
}

start() {
  [ $# -gt 0 ] || { tell "no rdm command: start train --config C --workdir gs://B/R" >&2; exit 2; }
  if running; then tell "process $(cat "$pid") still runs; stop it first" >&2; exit 1; fi
  [ -n "${RDM:-}" ] || install
  # shellcheck disable=SC2016 # the inner shell expands it
  # A group of its own, so that the end of the connection is not the end of the training. The shell lets SIGTERM pass
  # to rdm and stays, to write how it ended.
  do_ detached bash -c 'trap : TERM; "$@" || status=$?; echo "tpu_worker: rdm exited with ${status:-0}"' \
    tpu_worker "${RDM:-.venv/bin/rdm}" "$@" --distributed
  [ "$dry_run" = yes ] || tell "started as process $(cat "$pid"); the log is $log"
}

detached() {
  setsid nohup "$@" >>"$log" 2>&1 </dev/null &
  echo $! >"$pid"
}

stop() {
  if ! running; then tell "nothing runs"; return; fi
  do_ kill -TERM -- "-$(cat "$pid")"
  [ "$dry_run" = no ] || return 0
  while running; do sleep 0.2; done
  status
}

status() {
  local what=stopped
  if running; then what="process $(cat "$pid") runs"; fi
  tell "$what; $(tail -n 1 "$log" 2>/dev/null || echo "no log yet")"
}

if [ "${1:-}" = --dry-run ]; then dry_run=yes; shift; fi
cd "$(dirname "$0")/.."
case "${1:-}" in
  start) shift; start "$@" ;;
  stop) stop ;;
  status) status ;;
  --help) usage ;;
  *) refuse "unknown command ${1:-}" ;;
esac
