"""A training run of seconds: an autoencoder of a few thousand weights on a folder of a few small images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CONFIG = "style_scenes/autoencoder"

SETTINGS = {
    "data.split": "",
    "data.held_out": "",
    "data.size": 16,
    "crop": 8,
    "batch_size": 4,
    "log_every": 1,
    "eval_every": 0,
    "checkpoint_every": 2,
    "loss.half_scale_weight": 0.0,
    "optimizer.decay": "constant",  # runs of other lengths have the same program
    "model.ch": 4,
    "model.ch_mult": "[1, 2]",
    "model.num_groups": 2,
    "model.z_channels": 2,
    "model.embed_dim": 2,
}


def write_images(folder: Path) -> Path:
    """Makes the folder with 24 images of four colors, and returns it."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(24):
        colors = generator.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(colors).resize((16, 16)).save(folder / f"{i}.png")
    return folder


def overrides(source: Any, data_dir: Path, settings: dict[str, Any]) -> list[str]:
    """Returns "name=value" of every setting that is not the configuration's own."""
    changed = {"data.source": source, "data.data_dir": data_dir, **SETTINGS, **settings}
    return [f"{name}={value}" for name, value in changed.items()]


def command(source: Any, data_dir: Path, workdir: Any, settings: dict[str, Any]) -> list[str]:
    """Returns the arguments of the `rdm` that trains it."""
    options = [f"--config.{setting}" for setting in overrides(source, data_dir, settings)]
    return ["train", "--config", CONFIG, "--workdir", str(workdir), *options]
