"""Stages that grids share: the procedural images, a reference, and images of a model measured against it.

The small scale is the embedded model and `style_scenes`: every grid runs within an hour on two cores. The paper's scale
is the configs of the released models; `rdm ablate ... --dry-run` proves its commands and predicts its cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rdm_jax.core.errors import unknown

MODEL = "style-scenes"
PAPER = "paper"
SMALL_MESH, PAPER_MESH = "1x1", "32x8"

Stage = dict[str, Any]

DATA: Stage = {"command": "python -m rdm_jax.data.style_scenes", "data-dir": "data"}
"""The procedural set; it stays where other configs have it."""

REFERENCE: Stage = {
    "command": "database build",
    "": "style_scenes",
    "split": "test",
    "data-dir": "data",
    "encoder": MODEL,
    "limit": 1152,  # every style, subject and color once
    "quality": 95,
}

TRAINING = "train[:10000]"  # of the training set, at the small scale
RETRIEVAL: Stage = {
    "command": "database build",
    "": "style_scenes",
    "split": "retrieval",
    "data-dir": "data",
    "encoder": MODEL,
}
NEIGHBORS: Stage = {
    "command": "neighbors",
    "dataset": "style_scenes",
    "split": TRAINING,
    "data-dir": "data",
    "database": "{retrieval}",
    "k": 20,
    "within": "style",
}


def at(scale: str) -> dict[str, Any]:
    """Returns what all grids of a scale have beside their stages and axes."""
    return {"mesh": PAPER_MESH if is_paper(scale) else SMALL_MESH}


def is_paper(scale: str) -> bool:
    """Returns whether the argument of a grid's config is the paper's scale; raises UserError if it is no scale."""
    if scale not in ("", PAPER):
        raise unknown("scale", scale, [PAPER])
    return scale == PAPER


def proposed(model: str = MODEL, **options: Any) -> Stage:
    """Returns the stage that generates from rows of a database without a prompt, and compares with the reference."""
    return {
        "command": "evaluate model",
        "": model,
        "database": "general",
        "proposals": 200,
        "sampler": "dpmpp_2m",
        "steps": 8,
        "batch-size": 8,
        "seed": 0,
        "reference": "{reference}",
        "metrics": "kid,prdc,copies",
        "subset-size": 100,
        **options,
    }


def swapped(model: str = MODEL, **options: Any) -> Stage:
    """Returns the stage that classifies images of neutral prompts with the databases of styles."""
    return {
        "command": "evaluate style-swap",
        "model": model,
        "arm": ["style_database"],
        "samples": 96,
        "arm-samples": 96,
        "real-images": 288,
        "sampler": "dpmpp_2m",
        "steps": 8,
        "batch-size": 8,
        **options,
    }


def trained(**settings: Any) -> dict[str, Stage]:
    """Returns the stages that compute neighbors, continue the embedded model with other settings, and export it.

    Args:
      **settings: of the training, "conditioning__null" for `conditioning.null`.
    """
    run = {
        "command": "train",
        "config": "style_scenes/rdm",
        "init-from": MODEL,
        "base": MODEL,
        "steps": 1000,
        "eval_every": 500,
        "figures_every": 0,
        "data.split": TRAINING,
        "data.neighbors": "{neighbors}",
        "optimizer.learning_rate": 3e-4,
        **_dotted(settings),
    }
    model = {"command": "export", "": "{run}"}
    return {"retrieval": {**RETRIEVAL}, "neighbors": {**NEIGHBORS}, "run": run, "model": model}


def unprompted(**settings: Any) -> dict[str, Stage]:
    """Returns the stages of `trained`, and those that measure the model as `proposed` does."""
    measured = {"results": proposed("{model}")}
    return {"data": {**DATA}, "reference": {**REFERENCE}, **trained(**settings), **measured}


def of_roles(scale: str) -> dict[str, Stage]:
    """Returns the stages that train a model with two roles of neighbors on random styles, and swap databases.

    Args:
      scale: of the grid; at the paper's, longer and with larger batches.
    """
    large = is_paper(scale)
    run = {
        "command": "train",
        "config": "icons/rdm",
        "init-from": MODEL,
        "base": MODEL,
        "name": "style-scenes-roles",
        "steps": 1_000_000 if large else 1500,
        "batch_size": 256 if large else 8,
        "eval_every": 500,
        "data.source": "style_scenes/random",
        "data.split": "train" if large else "train[:12000]",
        "data.held_out_rows": 1024,
        "data.content": "content",
        "data.family": "group",
        "data.one_color": "",
        "data.most_of_style": 0,
        "data.restyled": 0,
        "sampling.database": "general",
        "sampling.content_database": "general",
    }
    return {
        "random_data": {**DATA, "config": "random"},
        "run": run,
        "model": {"command": "export", "": "{run}"},
        "results": swapped("{model}", **({"samples": 1000} if large else {})),
    }


def paper_sampled(model: str = "{model}", **options: Any) -> Stage:
    """Returns the stage that generates 50,000 images as the paper does, and compares with ImageNet's validation set."""
    return {
        "command": "evaluate model",
        "": model,
        "database": "runs/rdm-imagenet/database",
        "counts": "runs/rdm-imagenet/neighbors",
        "top-m": 0.01,
        "proposals": 50_000,
        "sampler": "ddim",
        "steps": 100,
        "eta": 1.0,
        "seed": 0,
        "reference": "data/imagenet_validation",
        "features": "runs/inception",
        "metrics": "fid,is,prdc",
        **options,
    }


def without_counts(stage: Stage) -> Stage:
    """Returns a stage whose queries are any rows of its database: counts are of one database alone."""
    return {key: value for key, value in stage.items() if key not in ("counts", "top-m")}


def paper_prompted(model: str) -> Stage:
    """Returns the stage that generates for the captions of COCO's validation set, zero-shot."""
    own = {"from-file": "data/coco/captions.txt", "reference": "data/coco/validation"}
    features = ["runs/inception", "runs/clip-b32"]
    stage = {**without_counts(paper_sampled(model)), **own, "features": features, "metrics": "fid,is,prdc,clip-score"}
    stage.pop("proposals")
    return stage


def paper_trained(**settings: Any) -> dict[str, Stage]:
    """Returns the stages that train a model of the paper's size from nothing, and export it; see `trained`."""
    run = {"command": "train", "config": "rdm_imagenet", **_dotted(settings)}
    return {"run": run, "model": {"command": "export", "": "{run}"}}


def paper_unprompted(database: Mapping[str, Stage] = {}, **settings: Any) -> dict[str, Stage]:
    """Returns the stages of `paper_trained`, after those of its database, and of its 50,000 images."""
    return {**database, **paper_trained(**settings), "results": paper_sampled()}


def paper_database(images: str) -> dict[str, Stage]:
    """Returns the stages that build a database of patches, and compute the neighbors of ImageNet in it."""
    return {
        "retrieval": {
            "command": "database build",
            "": images,
            "encoder": "runs/rdm_imagenet/base",
            "patches": 10,
            "patch-size": 256,
        },
        "neighbors": {
            "command": "neighbors",
            "dataset": "imagenet2012",
            "split": "train",
            "database": "{retrieval}",
            "k": 20,
        },
    }


def values(options: str, *settings: Any) -> dict[str, Mapping[str, Any]]:
    """Returns the labels of an axis: each value for one option, or for several.

    Args:
      options: "STAGE.OPTION", or several with commas.
      *settings: the values.
    """
    return {str(value): dict.fromkeys(options.split(","), value) for value in settings}


def _dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in settings.items()}
