"""A tiny model with noised networks, a random classifier, and databases of captioned squares in two styles."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from rdm_jax.bundle import Bundle
from rdm_jax.data.examples import Example
from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.encoder import ClipEncoder
from tests.helpers import tiny

CLASSES = {"subject": ["boat", "tree"], "colour": ["blue", "red"], "style": ["mosaic", "neon"]}
NOISED = {
    "in_channels": 2,
    "features": tiny.WIDTH,
    "latent_size": 8,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "num_head_channels": 8,
    "num_groups": 4,
}


def bundle(classes: dict[str, list[str]] = CLASSES, **sampling: Any) -> Bundle:
    """Returns the tiny model with a noised CLIP tower, and a noised classifier of some classes."""
    classifier = {**NOISED, "features": sum(map(len, classes.values())), "classes": classes}
    sampling = {**tiny.CONFIG["sampling"], **sampling}
    return tiny.bundle(noised_clip=NOISED, noised_classifier=classifier, sampling=sampling)


def classifier(classes: dict[str, list[str]]) -> Bundle:
    """Returns a classifier of 16x16 images."""
    settings = {"classes": classes, "stem": [4], "widths": [8], "num_groups": 2}
    config = {"name": "random", "classifier": settings, "evaluation": {"unseen": {}}}
    return Bundle(config, {"classifier": tiny.random_params(config, "classifier")})


class Scenes(tiny.Squares):
    """Squares of random colors, labeled in turn; every other caption names the style."""

    def __getitem__(self, index: int) -> Example:
        subject, color, style = list(itertools.product(*CLASSES.values()))[index % 8]
        caption = f"a {color} {subject}" + (f", {style}" if index // 8 % 2 else "") + "." * (index // 16)
        image = super().__getitem__(index).image.copy()
        image[4:8, index % 12 : index % 12 + 4] = 255 - image[4:8, index % 12 : index % 12 + 4]
        return Example(image, caption, f"{index}.png", {"subject": subject, "colour": color, "style": style})


def database(folder: Path, name: str, model: Bundle, labelled: bool = True) -> Path:
    """Builds a database of 32 images and returns its folder."""
    source = Scenes(32, 0) if labelled else tiny.Squares(16, len(name))
    build_database(BuildJob.of(source, ClipEncoder(model, batch_size=8), BuildOptions(name=name)), folder / name)
    return folder / name
