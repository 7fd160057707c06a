#!/usr/bin/env bash
# Trains the embedded models and builds their databases from scratch: images, CLIP, autoencoder, neighbors, diffusion
# model, noised networks, few-step model, classifier. Every part resumes: after a stop, run it again.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "$0")/common.sh"

usage() {
  cat <<'HELP'
usage: launch/style_scenes.sh [--out DIR] [--steps N] [--install]

  --out DIR   where data, runs and results go (default: runs/style_scenes)
  --steps N   steps of each training, in place of its config's: a rehearsal
  --install   copy the model, databases and classifier into rdm_jax/assets, in place of the old ones
  --help      this text

RDM names the command (default: rdm on the PATH, else .venv/bin/rdm); PYTHON its Python.
HELP
}

out=runs/style_scenes
steps=""
install=no
while [ $# -gt 0 ]; do
  case "$1" in
    --out) out="${2:?--out needs a folder}"; shift 2 ;;
    --steps) steps=${2:?--steps needs a number}; shift 2 ;;
    --install) install=yes; shift ;;
    --help) usage; exit 0 ;;
    *) echo "launch/style_scenes.sh: unknown option $1; see --help" >&2; exit 2 ;;
  esac
done

if [ "$install" = yes ] && [ -n "$steps" ]; then
  echo "launch/style_scenes.sh: --install puts a whole model in place of the shipped one, --steps makes a rehearsal; take one" >&2
  exit 2
fi

case "$steps" in *[!0-9]*) echo "launch/style_scenes.sh: --steps $steps is no number of steps; give 1 or more" >&2; exit 2 ;; esac
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
if [ -z "${RDM:-}" ]; then RDM=$(command -v rdm || echo .venv/bin/rdm); fi
PYTHON=${PYTHON:-$(dirname "$RDM")/python}
data=$out/data

train() { # train NAME CONFIG [OPTION...]
  local name=$1 config=$2
  shift 2
  "$RDM" train --config "$config" --workdir "$out/$name" --config.data.data_dir="$data" ${steps:+--config.steps="$steps"} "$@"
}

step images "$PYTHON" -m rdm_jax.data.style_scenes --data-dir "$data"

step clip train clip style_scenes/clip
step autoencoder train autoencoder style_scenes/autoencoder
once "$out/base" "$RDM" export "$out/clip" "$out/autoencoder" --out "$out/base"

step "training database" once "$out/retrieval" "$RDM" database build style_scenes --split retrieval --data-dir "$data" \
  --encoder "$out/base" --out "$out/retrieval"
step neighbors "$RDM" neighbors --dataset style_scenes --split train --data-dir "$data" --database "$out/retrieval" \
  --encoder "$out/base" --k 20 --within style --out "$out/neighbors"

step diffusion train rdm style_scenes/rdm --config.base="$out/base" --config.data.neighbors="$out/neighbors"
step decoder train decoder style_scenes/autoencoder:decoder --init-from "$out/base" --config.base="$out/base"
once "$out/generator" "$RDM" export "$out/rdm" "$out/decoder" --out "$out/generator" --name style-scenes
step "noised CLIP" train noised_clip noised_clip --config.base="$out/generator"
step "noised classifier" train noised_classifier noised_classifier --config.base="$out/generator"
once "$out/model" "$RDM" export "$out/noised_clip" "$out/noised_classifier" --out "$out/model" --name style-scenes

updates=${steps:-400}
step "few-step model" "$RDM" train --config distill --workdir "$out/few" --config.teacher="$out/model" \
  --config.data.data_dir="$data" --config.data.neighbors="$out/neighbors" --config.stages=8,4 \
  --config.updates="$updates,$updates"

step classifier train classifier style_scenes/classifier
once "$out/classifiers" "$RDM" export "$out/classifier" --out "$out/classifiers" --name style-scenes-classifier

styles=$("$PYTHON" -c 'from rdm_jax.data.style_scenes.vocabulary import STYLES; print(*STYLES, sep="\n")')
while read -r style; do
  folder=$out/databases/${style// /-}
  step "database $style" once "$folder" "$RDM" database build style_scenes --split database --data-dir "$data" \
    --encoder "$out/model" --where "style=$style" --name "${style// /-}" --out "$folder" \
    --quality 70 --licence Apache-2.0
done <<<"$styles"
step "database general" once "$out/databases/general" "$RDM" database build style_scenes --split database \
  --data-dir "$data" --encoder "$out/model" --limit 1152 --name general --out "$out/databases/general" \
  --quality 70 --licence Apache-2.0

if [ "$install" = yes ]; then
  assets=rdm_jax/assets
  rm -rf "$assets/models/style-scenes" "$assets/models/style-scenes-fast" "$assets/classifiers/style-scenes" "$assets/databases"
  mkdir -p "$assets/models" "$assets/classifiers"
  cp -r "$out/model" "$assets/models/style-scenes"
  "$RDM" export "$out/few" --out "$assets/models/style-scenes-fast" --name style-scenes-fast --dtype int8 \
    --parts-of style-scenes
  cp -r "$out/classifiers" "$assets/classifiers/style-scenes"
  cp -r "$out/databases" "$assets/databases"
  du -sh "$assets"
fi
