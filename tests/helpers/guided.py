"""A tiny model with its noised networks, a judge of random weights, and databases of captioned squares in two hands."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rdm_jax.bundle import Bundle
from rdm_jax.data.examples import Example
from rdm_jax.models.classifier import build_classifier
from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.encoder import ClipEncoder
from tests.helpers import tiny

CLASSES = {"subject": ["boat", "tree"], "colour": ["blue", "red"], "style": ["mosaic", "neon"]}
NOISED = {
    "in_channels": 2,
    "features": tiny.WIDTH,
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
    plain = tiny.bundle(noised_clip=NOISED, noised_classifier=classifier, sampling=sampling)
    x, t = jnp.zeros((1, 8, 8, 2)), jnp.zeros((1,))
    params = {
        part: tiny.randomise(jax.eval_shape(getattr(plain, part).init, jax.random.key(0), x, t)["params"], seed=i)
        for i, part in enumerate(("noised_clip", "noised_classifier"))
    }
    return dataclasses.replace(plain, params={**plain.params, **params})


def judge(classes: dict[str, list[str]]) -> Bundle:
    """Returns a judge of 16x16 pictures."""
    settings = {"classes": classes, "stem": [4], "widths": [8], "num_groups": 2}
    shapes = jax.eval_shape(build_classifier(settings).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    config = {"name": "random", "classifier": settings, "judging": {"unseen": {}}}
    return Bundle(config, {"classifier": tiny.randomise(shapes)})


class Scenes(tiny.Squares):
    """Squares of random colours, labelled in turn; every other caption names the style."""

    def __getitem__(self, index: int) -> Example:
        subject, colour, style = list(itertools.product(*CLASSES.values()))[index % 8]
        caption = f"a {colour} {subject}" + (f", {style}" if index // 8 % 2 else "") + "." * (index // 16)
        image = super().__getitem__(index).image.copy()
        image[4:8, index % 12 : index % 12 + 4] = 255 - image[4:8, index % 12 : index % 12 + 4]
        return Example(image, caption, f"{index}.png", {"subject": subject, "colour": colour, "style": style})


def database(folder: Path, name: str, model: Bundle, labelled: bool = True) -> Path:
    """Builds a database of 32 pictures and returns its folder."""
    source = Scenes(32, 0) if labelled else tiny.Squares(16, len(name))
    build_database(BuildJob.of(source, ClipEncoder(model, batch_size=8), BuildOptions(name=name)), folder / name)
    return folder / name
