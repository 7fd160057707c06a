"""The colors of the images in databases."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rdm_jax.core.palette import FLAT, ONE_COLOR
from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.set_palette import palette_of_databases
from rdm_jax.retrieval.shards import THUMBNAILS
from tests.helpers.shapes import BLACK, BLUE, RED, disk, painted
from tests.retrieval.conftest import Listed, RandomEncoder


def built(folder: Path, name: str, color: tuple[int, int, int], quality: int = 100) -> Database:
    """Returns a database of disks in one color."""
    images = [painted((disk(32, (16, 16), 5.0 + i / 20), color)) for i in range(100)]
    options = BuildOptions(name=name, thumbnail_size=32, quality=quality)
    build_database(BuildJob.of(Listed(images, name), RandomEncoder(), options), folder / name)
    return Database.open(folder / name)


@pytest.mark.parametrize("quality", [80, 100])
def test_the_colors_are_those_of_the_images(tmp_path, quality):
    palette = palette_of_databases([built(tmp_path, "ink", BLUE, quality)])
    assert palette is not None and palette.kind == ONE_COLOR
    assert np.abs(np.array(palette.colors[0]) - BLUE).max() <= (0 if quality == 100 else 8)


def test_several_databases_have_the_colors_of_each(tmp_path):
    databases = [built(tmp_path, str(color), color) for color in (RED, BLUE)]
    palette = palette_of_databases(databases)
    assert palette is not None and palette.kind == FLAT
    assert set(palette.colors) == {RED, BLUE}


def test_a_database_without_thumbnails_has_no_colors(tmp_path):
    database = built(tmp_path, "none", BLACK)
    shards = [{name: value for name, value in one.items() if name != THUMBNAILS} for one in database.manifest["shards"]]
    bare = dataclasses.replace(database, manifest={**database.manifest, "shards": shards})
    assert palette_of_databases([bare]) is None
