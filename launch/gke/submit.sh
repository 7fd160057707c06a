#!/usr/bin/env bash
# Fills in launch/gke/jobset.yaml and submits it with kubectl: a training on one or more slices of TPU under GKE.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

usage() {
  cat <<'HELP'
usage: launch/gke/submit.sh --name NAME --image IMAGE [OPTION...] -- train --config C --workdir gs://BUCKET/RUN [...]

  --name NAME            of the JobSet
  --image IMAGE          a container with rdm_jax and the configs (launch/gke/Dockerfile)
  --topology T           chips of a slice (default: 4x4)
  --accelerator A        label of the nodes (default: tpu-v5-lite-podslice, which is v5e)
  --chips N              chips of a host (default: 4)
  --slices N             slices that train together (default: 1)
  --spot                 on spot nodes
  --grace S              seconds from SIGTERM to the end (default: 300); spot nodes may give less
  --restarts N           failures after which it gives up; preemptions do not count (default: 3)
  --namespace N          (default: default)
  --service-account A    that may write to the bucket (default: default)
  --dry-run              print the manifest and submit nothing
  --help                 this text

  kubectl get jobset NAME                                                              how it is
  kubectl logs -f --prefix --max-log-requests 64 -l jobset.sigs.k8s.io/jobset-name=NAME    its log
  kubectl delete jobset NAME                                                           saves a checkpoint and ends
HELP
}

product() { # product AxB[xC]
  local factor product=1
  for factor in ${1//x/ }; do product=$((product * factor)); done
  echo "$product"
}

json_list() { # json_list WORD...: a list that YAML reads; $( is for Kubernetes to expand unless doubled
  local word list=""
  for word in "$@"; do
    word=${word//\\/\\\\}
    word=${word//\"/\\\"}
    list+=", \"${word//\$\(/\$\$(}\""
  done
  echo "[${list#, }]"
}

render() { # the manifest
  local line name
  while IFS= read -r line; do
    # shellcheck disable=SC2016 # the name as it stands in the template
    [[ $line != *'${SPOT}'* || -n ${values[SPOT]} ]] || continue
    # Alone and last: the arguments are the user's, and may hold what looks like a name.
    # shellcheck disable=SC2016
    if [[ $line == *'${ARGUMENTS}' ]]; then printf '%s\n' "${line%\$*}$arguments"; continue; fi
    [[ $line == '#'* ]] || for name in "${!values[@]}"; do line=${line//"\${$name}"/"${values[$name]}"}; done
    printf '%s\n' "$line"
  done <"$(dirname "$0")/jobset.yaml"
}

declare -A values=(
  [NAME]="" [IMAGE]="" [NAMESPACE]=default [SERVICE_ACCOUNT]=default [ACCELERATOR]=tpu-v5-lite-podslice
  [TOPOLOGY]=4x4 [CHIPS]=4 [SLICES]=1 [GRACE]=300 [RESTARTS]=3 [SPOT]=""
)
while [ $# -gt 0 ]; do
  case "$1" in
    --name | --image | --namespace | --service-account | --accelerator | --topology | --chips | --slices | --grace | --restarts)
      option=${1#--}
      option=${option^^}
      values[${option//-/_}]=${2:?$1 needs a value}
      shift 2 ;;
    --spot) values[SPOT]=true; shift ;;
    --dry-run) dry_run=yes; shift ;;
    --help) usage; exit 0 ;;
    --) shift; break ;;
    *) refuse "unknown option $1 (the rdm command stands behind --)" ;;
  esac
done
[ -n "${values[NAME]}" ] && [ -n "${values[IMAGE]}" ] || refuse "--name and --image are needed"
[ $# -gt 0 ] || refuse "no rdm command: -- train --config C --workdir gs://BUCKET/RUN"
[[ ${values[TOPOLOGY]} =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || refuse "--topology ${values[TOPOLOGY]} is not like 4x4"
for option in CHIPS SLICES GRACE; do
  [[ ${values[$option]} =~ ^[1-9][0-9]*$ ]] || refuse "--${option,,} ${values[$option]} is no number of 1 or more"
done
chips=$(product "${values[TOPOLOGY]}")
[ $((chips % values[CHIPS])) -eq 0 ] || refuse "${values[TOPOLOGY]} is $chips chips, not whole hosts of ${values[CHIPS]}"
values[HOSTS]=$((chips / values[CHIPS]))
arguments=$(json_list rdm "$@" --distributed)

# create, not apply: a name that is there is a training that runs, or one whose end is to be looked at first.
if [ "$dry_run" = yes ]; then render; else render | kubectl create -f -; fi
