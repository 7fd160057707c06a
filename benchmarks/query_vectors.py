"""The vector of a prompt by CLIP's text tower, a translator and a prior, compared as tables.

  rdm train --config style_scenes/translator --workdir runs/translator
  rdm train --config style_scenes/prior --workdir runs/prior
  rdm export style-scenes runs/translator runs/prior --out my-model
  python benchmarks/query_vectors.py --model my-model

The first table has the cosine of the vectors of held-out captions to those of their images. The second has the
precision of retrieval: prompts of every subject, color and named style search a balanced set of images.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from machine import machine

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.query_vectors import prompt_encoder
from rdm_jax.core.vectors import unit
from rdm_jax.data.image_set import ImageSet, load_images
from rdm_jax.data.sources import open_source
from rdm_jax.data.style_scenes.captions import styled_prompt
from rdm_jax.data.style_scenes.vocabulary import COLORS, MONOCHROME, NAMED_STYLES, SIZE, SUBJECTS
from rdm_jax.evaluation.metrics.intervals import bootstrap_mean
from rdm_jax.request import Request
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.vectors import image_vectors

WAYS: Mapping[str, Request] = {
    "text": Request(),
    "translator": Request(query_vector="translator"),
    **{
        f"prior, guidance {scale:g}": Request(query_vector="prior", prior_guidance_scale=scale)
        for scale in (1.0, 2.0, 4.0)
    },
}
LABELS = "subject", "colour", "style"


def images_of(split: str, data: Path) -> ImageSet:
    """Returns the images of a split of the procedural set."""
    return load_images(open_source("style_scenes", split=split, data_dir=str(data)), SIZE, data / "cache")


def wanted(every: int) -> list[dict[str, str]]:
    """Returns the labels of every n-th prompt."""
    product = itertools.product(SUBJECTS, COLORS, NAMED_STYLES)
    return [dict(zip(LABELS, labels, strict=True)) for labels in list(product)[::every]]


def precision(
    queries: Float[np.ndarray, "q d"],
    rows: Float[np.ndarray, "n d"],
    labels: Sequence[Mapping[str, str]],
    attributes: Sequence[Mapping[str, str]],
    k: int,
) -> dict[str, Float[np.ndarray, " p"]]:
    """Returns, by label, the fraction of each query's k nearest rows that have it.

    Colors count where the style shows them.

    Args:
      queries: of any length.
      rows: likewise.
      labels: that each query asks for.
      attributes: of each row.
      k: the number of neighbors.
    """
    nearest = np.argsort(-(unit(queries) @ unit(rows).T), axis=1, kind="stable")[:, :k]
    found = {}
    for label in LABELS:
        counted = [i for i, own in enumerate(labels) if label != "colour" or own["style"] not in MONOCHROME]
        values = np.asarray([str(one[label]) for one in attributes])
        found[label] = np.array([np.mean(values[nearest[i]] == labels[i][label]) for i in counted])
    return found


def cell(values: Float[np.ndarray, " n"], factor: float, digits: int) -> str:
    """Returns a mean with its bootstrap interval."""
    mean, (low, high) = factor * values.mean(), (factor * end for end in bootstrap_mean(values))
    return f"{mean:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table in Markdown."""
    print("\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows)), flush=True)
    print()


def main() -> None:
    """Measures and prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a style-scenes with a translator and a prior")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where the procedural set is")
    parser.add_argument("--pairs", type=int, default=400, help="held-out pairs of the first table (default: 400)")
    parser.add_argument("--every", type=int, default=2, help="every n-th of 864 prompts (default: 2)")
    parser.add_argument("--neighbors", type=int, default=4, help="of each prompt (default: 4)")
    args = parser.parse_args()
    bundle = Bundle.open(args.model, parts=("clip", "translator", "prior"))
    encoder, cache = ClipEncoder(bundle), args.data_dir / "cache"
    held_out, database = (images_of(split, args.data_dir) for split in ("validation", "database"))
    pairs = np.linspace(0, len(held_out) - 1, args.pairs).astype(int)
    targets = image_vectors(bundle, held_out, cache, lambda *_: None)[pairs].astype(np.float32)
    rows = image_vectors(bundle, database, cache, lambda *_: None).astype(np.float32)
    labels = wanted(args.every)
    prompts = [styled_prompt(**{name: own[name] for name in LABELS}) for own in labels]
    cosines, precisions = [], []
    for name, request in WAYS.items():
        encode = prompt_encoder(bundle, encoder, dataclasses.replace(request, seed=0))
        begin = time.perf_counter()
        found = np.sum(unit(encode([held_out.captions[row] for row in pairs])) * unit(targets), axis=1)
        seconds = time.perf_counter() - begin
        cosines.append([name, cell(found, 1.0, 3), f"{1000 * seconds / len(pairs):.0f} ms"])
        own = precision(encode(prompts), rows, labels, database.attributes, args.neighbors)
        precisions.append([name, *(cell(own[label], 100.0, 1) for label in LABELS)])
    print(f"{len(pairs)} held-out pairs, {len(prompts)} prompts, {len(rows)} images; {machine()}\n")
    show(["vector", "cosine to the image", "time of a prompt"], cosines)
    show(["vector", *LABELS], precisions)


if __name__ == "__main__":
    main()
