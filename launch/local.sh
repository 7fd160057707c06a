#!/usr/bin/env bash
# Runs an rdm command as several processes on one machine that train together: the cores and GPUs are divided among
# them, and each one's lines begin with its number. One that fails stops the others.
set -euo pipefail
source "$(dirname "$0")/common.sh"

usage() {
  cat <<'HELP'
usage: launch/local.sh [--processes N] [--port P] [--grace S] [--dry-run] -- train --config C --workdir W [...]

  --processes N  how many processes (default: 2)
  --port P       the port of this machine through which they find one another (default: a free one)
  --grace S      seconds that the others have to end after one has failed (default: 30)
  --dry-run      print the command of each process and run none
  --help         this text

Ctrl-C and SIGTERM are passed on as SIGTERM: training saves a checkpoint and ends, and the same command resumes
from it. A second one kills. The exit status is that of the first process that failed.
RDM names the command (default: rdm on the PATH, else .venv/bin/rdm).
HELP
}

number() { case "$2" in '' | *[!0-9]* | 0*) refuse "$1 $2 is no number of 1 or more" ;; esac }

free_port() {
  local port
  for _ in {1..100}; do
    port=$((20000 + RANDOM % 12000)) # below those that systems give to outgoing connections
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
  refuse "found no free port; name one with --port"
}

cores() { # the cores that this process may use
  local range
  command -v taskset >/dev/null || return 0
  for range in $(taskset -cp $$ | sed 's/.*: //; s/,/ /g'); do seq "${range%-*}" "${range#*-}"; done
}

gpus() { # the GPUs that this process may use
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES"
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=index --format=csv,noheader || true
  fi
}

share() { # share I N ITEM...: share I of N even ones, with commas; nothing where there are fewer items than shares
  local i=$1 n=$2
  shift 2
  [ $# -ge "$n" ] || return 0
  local from=$((i * $# / n + 1)) to=$(((i + 1) * $# / n + 1)) IFS=,
  echo "${*:from:to - from}"
}

command_of() { # command_of I: puts what process I runs into `command`
  local mine
  command=()
  mine=$(share "$1" "$processes" "${gpus[@]}")
  [ -z "$mine" ] || command+=(env "CUDA_VISIBLE_DEVICES=$mine")
  mine=$(share "$1" "$processes" "${cores[@]}")
  [ -z "$mine" ] || command+=(taskset -c "$mine")
  command+=("$RDM" "${arguments[@]}" --coordinator "127.0.0.1:$port" --processes "$processes" --process "$1")
}

label() { # label I: passes lines on behind the number
  local line
  trap '' INT TERM # what the process says while it stops is to be read
  while IFS= read -r line || [ -n "$line" ]; do printf '[%s] %s\n' "$1" "$line"; done
}

start() { # start I
  command_of "$1"
  mkfifo "$pipes/$1"
  label "$1" <"$pipes/$1" &
  labels+=($!)
  "${command[@]}" >"$pipes/$1" 2>&1 &
  pids+=($!)
}

send() { # send SIGNAL: to those that still run
  local i
  for i in "${!pids[@]}"; do [ -n "${ended[i]:-}" ] || kill "-$1" "${pids[i]}" 2>/dev/null || true; done
}

stopping=no
# shellcheck disable=SC2329 # called by trap
on_signal() {
  if [ "$stopping" = no ]; then
    stopping=yes
    say "stopped by a signal: waiting for the processes to save (again to kill them)"
    send TERM
  else
    send KILL
  fi
}

on_end() { # on_end I STATUS: what follows from the end of one
  ended[$1]=$2
  if [ "$2" -eq 0 ] || [ "$result" -ne 0 ]; then return 0; fi
  result=$2
  say "process $1 exited with $2; stopping the others, killing them in $grace s"
  deadline=$((SECONDS + grace))
  [ "$stopping" = yes ] || send TERM # once: a second signal kills
}

watch() { # until all have ended
  local i status
  while [ "${#ended[@]}" -lt "${#pids[@]}" ]; do
    sleep 0.2 || true
    [ "$SECONDS" -lt "$deadline" ] || send KILL
    for i in "${!pids[@]}"; do
      if [ -n "${ended[i]:-}" ] || kill -0 "${pids[i]}" 2>/dev/null; then continue; fi
      status=0
      wait "${pids[i]}" || status=$?
      on_end "$i" "$status"
    done
  done
}

last_words() { # waits for the last lines; not for long, as a forgotten grandchild may hold a pipe open
  for _ in {1..25}; do
    kill -0 "${labels[@]}" 2>/dev/null || return 0 # fails once none is left
    sleep 0.2
  done
  kill -KILL "${labels[@]}" 2>/dev/null || true
}

processes=2
port=""
grace=30
while [ $# -gt 0 ]; do
  case "$1" in
    --processes) processes=${2:?--processes needs a number}; shift 2 ;;
    --port) port=${2:?--port needs a number}; shift 2 ;;
    --grace) grace=${2:?--grace needs a number of seconds}; shift 2 ;;
    --dry-run) dry_run=yes; shift ;;
    --help) usage; exit 0 ;;
    --) shift; break ;;
    *) refuse "unknown option $1 (the rdm command stands behind --)" ;;
  esac
done
arguments=("$@")
[ $# -gt 0 ] || refuse "no rdm command: launch/local.sh --processes 2 -- train --config C --workdir W"
number --processes "$processes"
number --grace "$grace"
[ -n "$port" ] || port=$(free_port)
number --port "$port"
RDM=${RDM:-$(command -v rdm || echo "$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/rdm")}
mapfile -t cores < <(cores)
mapfile -t gpus < <(gpus)
if [ "${#gpus[@]}" -gt 0 ] && [ "${#gpus[@]}" -lt "$processes" ] && [ "${JAX_PLATFORMS:-}" != cpu ]; then
  say "fewer GPUs (${#gpus[@]}) than processes ($processes): none is shared out; JAX_PLATFORMS=cpu trains without"
fi

if [ "$dry_run" = yes ]; then
  for ((i = 0; i < processes; i++)); do
    command_of "$i"
    show "${command[@]}"
  done
  exit 0
fi

pids=() labels=() ended=()
result=0
deadline=$((SECONDS + 1000000000))
pipes=$(mktemp -d)
trap 'rm -rf "$pipes"' EXIT
trap on_signal INT TERM
for ((i = 0; i < processes; i++)); do start "$i"; done
watch
last_words
exit "$result"
