import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from rdm_jax.core.files import sha256_json
from rdm_jax.core.images import resize_and_crop
from rdm_jax.data.examples import Example
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval.build import DEFAULT_OPTIONS, BuildJob, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.jobs import Execution
from rdm_jax.retrieval.neighbors import NeighborJob, compute_neighbors

WIDTH = 24


class RandomEncoder:
    """An encoder without a network: random projections of the pixels, and of the text's hash."""

    image_size = 8
    batch_size = 16

    def __init__(self, name="random", seed=0):
        self.identity = {"name": name, "sha256": hashlib.sha256(f"{name}{seed}".encode()).hexdigest(), "width": WIDTH}
        self.matrix = np.random.default_rng(seed).normal(size=(192, WIDTH)).astype(np.float32)
        self.preprocessing = {"size": 8}
        self.calls = 0

    def encode_images(self, images):
        self.calls += 1
        pixels = [resize_and_crop(image, 8).reshape(-1).astype(np.float32) / 255 - 0.5 for image in images]
        # A sum, not a matrix product, whose rounding depends on how many pictures come at once.
        return (np.stack(pixels)[:, :, None] * self.matrix).sum(axis=1)

    def encode_texts(self, texts):
        seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32) for seed in seeds])


class Listed:
    """A source from a list of pictures, None where one is broken; picture i is the work of artist i % 5."""

    def __init__(self, pictures, name="listed", shard_lengths=None):
        self.pictures, self.name, self.captions = pictures, name, "a list"
        self.shard_lengths = shard_lengths or (len(pictures),)

    @property
    def fingerprint(self):
        hashes = [hashlib.sha256(b"" if one is None else one.tobytes()).hexdigest() for one in self.pictures]
        return sha256_json([self.name, hashes])

    def __len__(self):
        return len(self.pictures)

    def labels(self, index):
        return {"caption": f"{self.name} no. {index}", "path": f"{self.name}/{index:03d}.png", **self._labels(index)}

    def __getitem__(self, index):
        told = self.labels(index)
        if self.pictures[index] is None:
            raise ValueError(f"{told['path']}: broken")
        return Example(self.pictures[index], told["caption"], told["path"], self._labels(index))

    def _labels(self, index):
        return {"artist": f"artist {index % 5}"}


def build(source, encoder, out, options=DEFAULT_OPTIONS, append=False, **execution):
    """Builds a database and returns the report; the other keywords are those of `Execution`."""
    return build_database(BuildJob.of(source, encoder, options), out, Execution(**execution), append=append)


def neighbors_of(source, encoder, database, options, out, **execution):
    """Computes neighbors and returns the report; the other keywords are those of `Execution`."""
    return compute_neighbors(NeighborJob(source, encoder, database, options), out, Execution(**execution))


def noise(count, seed=0, broken=()) -> list:
    """Returns random pictures, far from each other."""
    made = np.random.default_rng(seed).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return [None if i in broken else picture for i, picture in enumerate(made)]


def coloured(numbers, size=12):
    """Returns flat pictures whose colour tells their number."""
    return [np.full((size, size, 3), (number % 16 * 16, number // 16 * 16, 96), np.uint8) for number in numbers]


def numbers_of(pictures):
    """Returns the numbers that the colours of flat pictures tell."""
    return [int(picture[0, 0, 0]) // 16 + int(picture[0, 0, 1]) // 16 * 16 for picture in pictures]


def without_dates(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("created")
    return {**manifest, "history": [{**event, "date": ""} for event in manifest["history"]]}


def same_files(one, other):
    """Says whether two databases are the same bit for bit, but for the dates in their manifests."""
    names = sorted(path.name for path in one.iterdir())
    return (
        names == sorted(path.name for path in other.iterdir())
        and all((one / name).read_bytes() == (other / name).read_bytes() for name in names if name != "manifest.json")
        and without_dates(one) == without_dates(other)
    )


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def kept_without_duplicates(rows, threshold):
    """Returns the numbers of the rows that stay where each one near to an earlier kept one goes, by a slow loop."""
    vectors, kept = unit(rows), []
    for i, vector in enumerate(vectors):
        if all(vectors[j] @ vector < threshold for j in kept):
            kept.append(i)
    return kept


def write_images(root, count, seed=0, size=(12, 10)):
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
    return write_images(tmp_path_factory.mktemp("pictures") / "zoo", 300)


@pytest.fixture(scope="session")
def source(pictures):
    return open_source(str(pictures))


@pytest.fixture(scope="session")
def database(source, encoder, tmp_path_factory):
    """Returns a database of 300 rows; tests must not change its files."""
    out = tmp_path_factory.mktemp("databases") / "zoo"
    build(source, encoder, out)
    return Database.open(out)
