#!/usr/bin/env bash
# Tries launch/slurm.sbatch for real on one machine: installs Slurm from Debian's packages where it is missing, starts
# a cluster of this one node that keeps all it writes in a folder, and submits a training to it.
set -euo pipefail
source "$(dirname "$0")/common.sh"

usage() {
  cat <<'HELP'
usage: launch/slurm_local.sh COMMAND [OPTION...] [-- train --config C --workdir W [...]]

commands
  start   install Slurm and munge where they are missing (apt, as root), and start them
  run     start, submit the command with launch/slurm.sbatch, follow its log, and exit as the job does
  status  the node and the queue
  stop    cancel what runs, and stop the daemons

options
  --tasks N   processes of the job (run; default: 2)
  --dir DIR   configuration, key, sockets and logs of the cluster (default: /tmp/rdm-slurm-USER)
  --dry-run   print the commands and the configuration, and run none
  --help      this text

Ctrl-C leaves the job running. sbatch's variables are passed on: SBATCH_TIMELIMIT=5 SBATCH_SIGNAL=B:USR1@60 ends and
requeues after four minutes. For Slurm's own commands: export SLURM_CONF=/tmp/rdm-slurm-USER/slurm.conf
HELP
}

configuration() {
  local cores
  cores=$(nproc)
  cat <<CONF
ClusterName=local
SlurmctldHost=localhost
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MinJobAge=86400
# As many as a job may ask for, though the machine have fewer.
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname=$(uname -n) NodeAddr=127.0.0.1 CPUs=$((tasks > cores ? tasks : cores)) State=UNKNOWN
PartitionName=local Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

install() {
  if command -v slurmctld slurmd munged >/dev/null; then return; fi
  [ "$(id -u)" -eq 0 ] || refuse "Slurm is not installed; as root: apt-get install slurm-wlm munge"
  do_ apt-get update -qq
  do_ env DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends slurm-wlm munge
}

running() { [ -f "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; } # running PIDFILE

daemon() { # daemon NAME COMMAND...: starts what is not running
  local name=$1
  shift
  running "$dir/$name.pid" || do_ "$@"
}

write_configuration() {
  if [ "$dry_run" = yes ]; then echo "# $dir/slurm.conf"; configuration; return; fi
  mkdir -p "$dir/state" "$dir/spool"
  chmod 755 "$dir" # munge refuses a folder that others may write to
  [ -f "$dir/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
  # A cluster that runs keeps its configuration: its commands read it each time and warn where it differs.
  running "$dir/slurmctld.pid" || configuration >"$dir/slurm.conf"
}

start() {
  install
  write_configuration
  # A munge of its own, with a key of its own: one that the system may run is left alone.
  daemon munged munged --key-file "$dir/munge.key" --socket "$dir/munge.socket" --pid-file "$dir/munged.pid" \
    --log-file "$dir/munged.log" --seed-file "$dir/munged.seed"
  daemon slurmctld slurmctld -f "$SLURM_CONF"
  daemon slurmd slurmd -f "$SLURM_CONF"
  [ "$dry_run" = no ] || return 0
  for _ in {1..60}; do
    case "$(sinfo --noheader --format %T 2>/dev/null)" in idle | mixed | allocated) return ;; esac
    sleep 0.5
  done
  sinfo >&2 || true
  say "the node did not come up; see $dir/slurmctld.log and $dir/slurmd.log"
  exit 1
}

job_state() { scontrol show job "$1" --oneliner | grep -o 'JobState=[A-Z_]*' | cut -d = -f 2; }

follow() { # follow JOB LOG: shows the log until the job has ended
  local state before=""
  touch "$2"
  tail -n +1 -F "$2" 2>/dev/null &
  tail=$!
  trap 'kill "$tail" 2>/dev/null || true' EXIT
  while :; do
    state=$(job_state "$1")
    [ "$state" = "$before" ] || say "job $1 is $state"
    before=$state
    case "$state" in PENDING | CONFIGURING | RUNNING | COMPLETING | REQUEUED | REQUEUE_HOLD) sleep 1 ;; *) break ;; esac
  done
  sleep 1.5 # for the last lines
}

run() {
  local job code
  [ $# -gt 0 ] || refuse "no rdm command: run -- train --config C --workdir W"
  start
  local submit=(sbatch --parsable "--ntasks=$tasks" "--output=$dir/%x-%j.log" "$(dirname "$0")/slurm.sbatch" -- "$@")
  if [ "$dry_run" = yes ]; then show "${submit[@]}"; return; fi
  RDM=${RDM:-$(command -v rdm || echo "$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/rdm")}
  export RDM
  job=$("${submit[@]}")
  say "submitted job $job; its log is $dir/rdm-$job.log"
  squeue
  follow "$job" "$dir/rdm-$job.log"
  code=$(scontrol show job "$job" --oneliner | grep -o ' ExitCode=[0-9]*' | cut -d = -f 2)
  [ "$(job_state "$job")" = COMPLETED ] || [ "$code" -ne 0 ] || code=1
  exit "$code"
}

status() {
  do_ sinfo
  do_ squeue
}

stop() {
  local name
  do_ scancel --user "$(id -un)" || true
  for _ in {1..80}; do
    [ "$dry_run" = no ] && [ -n "$(squeue --noheader 2>/dev/null)" ] || break
    sleep 0.5
  done
  for name in slurmd slurmctld munged; do
    if running "$dir/$name.pid"; then do_ kill "$(cat "$dir/$name.pid")"; fi
  done
}

tasks=2
dir=/tmp/rdm-slurm-$(id -un)
case "${1:-}" in
  start | run | status | stop) action=$1; shift ;;
  --help) usage; exit 0 ;;
  *) refuse "unknown command ${1:-}" ;;
esac
while [ $# -gt 0 ]; do
  case "$1" in
    --tasks) tasks=${2:?--tasks needs a number}; shift 2 ;;
    --dir) dir=${2:?--dir needs a folder}; shift 2 ;;
    --dry-run) dry_run=yes; shift ;;
    --help) usage; exit 0 ;;
    --) shift; break ;;
    *) refuse "unknown option $1 (the rdm command stands behind --)" ;;
  esac
done
case "$dir" in /*) ;; *) dir=$PWD/$dir ;; esac
export SLURM_CONF=$dir/slurm.conf
"$action" "$@"
