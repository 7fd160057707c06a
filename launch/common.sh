# What the scripts of this folder share; sourced, not run.
# shellcheck shell=bash

dry_run=no

say() { echo "launch/$(basename "$0"): $*" >&2; }
refuse() { say "$*; see --help"; exit 2; }

show() { # prints a command as one would type it
  local word line=""
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+=" $word"
  done
  echo "${line# }"
}

do_() { # runs a command, or prints it where `dry_run` is yes
  if [ "$dry_run" = yes ]; then show "$@"; else "$@"; fi
}

step() { # step NAME COMMAND...: runs a part and prints its time
  local name=$1 start=$SECONDS
  shift
  echo "== $name" >&2
  "$@"
  echo "== $name: $((SECONDS - start)) s" >&2
}

once() { # once PATH COMMAND...: runs a command whose result is PATH, unless it is there
  local result=$1
  shift
  [ -e "$result" ] || "$@"
}
