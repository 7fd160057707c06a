import hashlib
import io
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from rdm_jax.core.images import resize_and_crop
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval.build import build_database
from rdm_jax.retrieval.database import Database

WIDTH = 24


class RandomEncoder:
    """An encoder without a network: random projections of the pixels, and of the text's hash."""

    image_size = 8
    batch_size = 16
    preprocessing: ClassVar = {"size": 8}

    def __init__(self, name="random", seed=0):
        self.identity = {"name": name, "sha256": hashlib.sha256(f"{name}{seed}".encode()).hexdigest(), "width": WIDTH}
        self.matrix = np.random.default_rng(seed).normal(size=(192, WIDTH)).astype(np.float32)
        self.calls = 0

    def encode_images(self, images):
        self.calls += 1
        pixels = [resize_and_crop(image, 8).reshape(-1).astype(np.float32) / 255 - 0.5 for image in images]
        # A sum, not a matrix product, whose rounding depends on how many pictures come at once.
        return (np.stack(pixels)[:, :, None] * self.matrix).sum(axis=1)

    def encode_texts(self, texts):
        seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32) for seed in seeds])


def write_pictures(root, count, seed=0, size=(12, 10)):
    """Writes smooth random pictures into two class folders."""
    generator = np.random.default_rng(seed)
    for i in range(count):
        path = root / ("cats", "dogs")[i % 2] / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = generator.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
        picture.save(path)
    return root


def picture_bytes(picture, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def encoder():
    return RandomEncoder()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures") / "zoo", 300)


@pytest.fixture(scope="session")
def source(pictures):
    return open_source(str(pictures))


@pytest.fixture(scope="session")
def database(source, encoder, tmp_path_factory):
    """Returns a database of 300 rows; tests must not change its files."""
    out = tmp_path_factory.mktemp("databases") / "zoo"
    build_database(source, encoder, out)
    return Database.open(out)
