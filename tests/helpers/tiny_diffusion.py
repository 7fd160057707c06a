"""A diffusion training of seconds: two folders of small random images, a database of them, neighbors computed ahead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from rdm_jax.bundle import Bundle
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval.build import BuildJob, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.neighbors import NeighborJob, NeighborOptions, compute_neighbors
from tests.helpers import tiny

CONFIG = "emoji/rdm"
K = 5


def write(root: Path) -> None:
    """Writes images/ with two folders of twelve, the model base/, database/, and neighbors in within/ and free/.

    The neighbors of within/ are in the folder of the image.
    """
    generator = np.random.default_rng(0)
    for folder in ("line", "wash"):
        (root / "images" / folder).mkdir(parents=True)
        for i in range(12):
            colors = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(colors).save(root / "images" / folder / f"{i:02d}.png")
            (root / "images" / folder / f"{i:02d}.txt").write_text(f"{folder} {i} a red boat")
    tiny.bundle().save(root / "base", dtype="float32")
    encoder, source = ClipEncoder(Bundle.open(root / "base")), open_source(str(root / "images"))
    build_database(BuildJob.of(source, encoder), root / "database")
    for name, within in (("within", "folder"), ("free", None)):
        options = NeighborOptions(K, duplicates=None, within=within)
        compute_neighbors(NeighborJob(source, encoder, Database.open(root / "database"), options), root / name)


def overrides(root: Path, neighbors: str = "within") -> tuple[str, ...]:
    """Returns the settings of a training on what `write` has written."""
    places = f"data.source={root / 'images'}", f"data.data_dir={root}", f"data.neighbors={root / neighbors}"
    model = "model.model_channels=8", "model.channel_mult=[1,2]", "model.num_head_channels=8", "model.num_groups=4"
    small = "data.split=", "data.size=16", "data.held_out_rows=4", "batch_size=2", f"base={root / 'base'}"
    few = "conditioning.candidates=4", "conditioning.neighbors=3", "model.attention_resolutions=[2]"
    return (*places, *model, *small, *few)
