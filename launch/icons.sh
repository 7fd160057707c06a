#!/usr/bin/env bash
# Trains the icon model and builds its databases from scratch: icons, word table, image tower, autoencoder, style
# encoder, diffusion model, classifier, databases. Every part resumes: after a stop, run it again.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "$0")/common.sh"

usage() {
  cat <<'HELP'
usage: launch/icons.sh --archives DIR [--out DIR] [--from BUNDLE] [--steps N] [--install]

  --archives DIR  the npm archives and the wheel that `python -m rdm_jax.convert.icon_words --help` names
  --out DIR       where data, runs and results go (default: runs/icons)
  --from BUNDLE   continue from the word table, autoencoder, style encoder and diffusion model of this bundle, such as
                  icons, the one that ships
  --steps N       steps of each training, in place of its config's: a rehearsal
  --install       copy the model and its databases into rdm_jax/assets, in place of the old ones
  --help          this text

RDM names the command (default: rdm on the PATH, else .venv/bin/rdm); PYTHON its Python.
HELP
}

archives=""
out=runs/icons
from=""
steps=""
install=no
while [ $# -gt 0 ]; do
  case "$1" in
    --archives) archives=${2:?--archives needs a folder}; shift 2 ;;
    --out) out="${2:?--out needs a folder}"; shift 2 ;;
    --from) from=${2:?--from needs a bundle}; shift 2 ;;
    --steps) steps=${2:?--steps needs a number}; shift 2 ;;
    --install) install=yes; shift ;;
    --help) usage; exit 0 ;;
    *) echo "launch/icons.sh: unknown option $1; see --help" >&2; exit 2 ;;
  esac
done

if [ "$install" = yes ] && [ -n "$steps" ]; then
  echo "launch/icons.sh: --install puts a whole model in place of the shipped one, --steps makes a rehearsal; take one" >&2
  exit 2
fi
[ -d "$archives" ] || { echo "launch/icons.sh: --archives ${archives:-is missing and} names no folder; see --help" >&2; exit 2; }
case "$steps" in *[!0-9]*) echo "launch/icons.sh: --steps $steps is no number of steps; give 1 or more" >&2; exit 2 ;; esac
mkdir -p "$out"
out=$(cd "$out" && pwd)
archives=$(cd "$archives" && pwd)
if [ -d "$from" ]; then from=$(cd "$from" && pwd); fi
cd "$(dirname "$0")/.."
if [ -z "${RDM:-}" ]; then RDM=$(command -v rdm || echo .venv/bin/rdm); fi
PYTHON=${PYTHON:-$(dirname "$RDM")/python}
data=$out/data

# Styles whose databases ship: half of them are in no training.
seen="lucide ph-duotone material-symbols tabler solar-linear streamline-plump twemoji carbon"
unseen="pixelarticons streamline-freehand solar-broken game-icons flat-color-icons ic-twotone fluent-emoji teenyicons-solid"
of_style=150

train() { # train NAME CONFIG [OPTION...]
  local name=$1 config=$2
  shift 2
  "$RDM" train --config "$config" --workdir "$out/$name" --config.data.data_dir="$data" ${steps:+--config.steps="$steps"} "$@"
}

database() { # database NAME SPLIT [OPTION...]
  local name=$1 split=$2
  shift 2
  step "database $name" once "$databases/$name" "$RDM" database build icons/64 --data-dir "$data" --split "$split" \
    --encoder "$encoder" --quality 100 --name "$name" --out "$databases/$name" "$@"
}

mkdir -p "$data/downloads/manual"
cp -n "$archives"/iconify-json-*.tgz "$data/downloads/manual/"
step icons "$PYTHON" -m rdm_jax.data.icons --data-dir "$data"

if [ -n "$from" ]; then
  start=$from
  step "image tower" train clip icons/clip --init-from "$from"
  once "$out/base" "$RDM" export "$from" "$out/clip" --out "$out/base" --name icons
else
  start=$out/start
  step "word table" once "$out/words" "$PYTHON" -m rdm_jax.convert.icon_words "$archives" "$out/words"
  step "image tower" train clip icons/clip --init-from "$out/words/model"
  step autoencoder train autoencoder style_scenes/autoencoder --init-from style-scenes \
    --config.name=icons --config.data.source=icons/64 --config.data.held_out=
  once "$out/base" "$RDM" export "$out/clip" "$out/autoencoder" --out "$out/base" --name icons
  step "style encoder" train style-encoder icons/style_encoder
  once "$start" "$RDM" export style-scenes "$out/style-encoder" --out "$start"
fi
step diffusion train rdm icons/rdm --init-from "$start" --config.base="$out/base"
step decoder train decoder style_scenes/autoencoder:decoder --init-from "$out/base" --config.base="$out/base" \
  --config.name=icons --config.data.source=icons/64 --config.data.held_out=
once "$out/model" "$RDM" export "$out/rdm" "$out/decoder" --out "$out/model" --name icons

step classifier train classifier icons/classifier
once "$out/classifier-bundle" "$RDM" export "$out/classifier" --out "$out/classifier-bundle" --name icons-classifier

encoder=$out/model
databases=$out/databases
if [ "$install" = yes ]; then
  # Built by the model that ships, so that no manifest names a folder of this machine.
  assets=rdm_jax/assets
  for part in models/icons databases/icons; do rm -rf "${assets:?}/$part"; done
  for style in $seen $unseen; do rm -rf "${assets:?}/databases/$style"; done
  cp -r "$out/model" "$assets/models/icons"
  cp "$data"/icons/64/*/ATTRIBUTION.md "$assets/databases/"
  encoder=icons
  databases=$assets/databases
fi
database icons content
for style in $seen; do database "$style" train --where "style=$style" --spread $of_style; done
for style in $unseen; do database "$style" held_out --where "style=$style" --spread $of_style; done

if [ "$install" = yes ]; then du -sh "$assets"; fi
