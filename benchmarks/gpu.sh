#!/usr/bin/env bash
# Measures rdm_jax on one GPU in under ten minutes; `benchmarks/gpu.sh --help` lists the options, those of gpu.py.
# PYTHON names the interpreter of the environment with rdm_jax (default: python3 on the PATH).
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}
command -v "$PYTHON" >/dev/null || {
  echo "benchmarks/gpu.sh: there is no interpreter $PYTHON; set PYTHON to that of the environment with rdm_jax" >&2
  exit 2
}
command=("$PYTHON" "$root/benchmarks/gpu.py" "$@")
# A compilation cannot be interrupted from within. What was measured until then is in the table.
! command -v timeout >/dev/null || command=(timeout --kill-after=5 590 "${command[@]}")
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${command[@]}"
