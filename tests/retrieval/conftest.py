import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from rdm_jax.bundle import Bundle
from rdm_jax.core.files import sha256_json
from rdm_jax.core.images import resize_and_crop
from rdm_jax.data.examples import Example
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval.build import DEFAULT_OPTIONS, BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.jobs import Execution
from rdm_jax.retrieval.neighbors import NeighborJob, compute_neighbors
from tests.helpers import tiny

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
        # A sum: the rounding of a matrix product depends on the number of images.
        return (np.stack(pixels)[:, :, None] * self.matrix).sum(axis=1)

    def encode_texts(self, texts):
        seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32) for seed in seeds])


class Listed:
    """A source from a list of images, None for a broken one; image i is by artist i % 5."""

    def __init__(self, images, name="listed", shard_lengths=None):
        self.images, self.name, self.captions = images, name, "a list"
        self.shard_lengths = shard_lengths or (len(images),)

    @property
    def fingerprint(self):
        hashes = [hashlib.sha256(b"" if image is None else image.tobytes()).hexdigest() for image in self.images]
        return sha256_json([self.name, hashes])

    def __len__(self):
        return len(self.images)

    def labels(self, index):
        return {"caption": f"{self.name} no. {index}", "path": f"{self.name}/{index:03d}.png", **self._labels(index)}

    def __getitem__(self, index):
        labels = self.labels(index)
        if self.images[index] is None:
            raise ValueError(f"{labels['path']}: broken")
        return Example(self.images[index], labels["caption"], labels["path"], self._labels(index))

    def _labels(self, index):
        return {"artist": f"artist {index % 5}"}


def build(source, encoder, out, options=DEFAULT_OPTIONS, append=False, **execution):
    """Builds a database and returns the report; the other keywords are those of `Execution`."""
    return build_database(BuildJob.of(source, encoder, options), out, Execution(**execution), append=append)


def neighbors_of(source, encoder, database, options, out, **execution):
    """Computes neighbors and returns the report; the other keywords are those of `Execution`."""
    return compute_neighbors(NeighborJob(source, encoder, database, options), out, Execution(**execution))


def noise(count, seed=0, broken=()) -> list:
    """Returns random images, far from each other."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return [None if i in broken else image for i, image in enumerate(images)]


def colored(numbers, size=12):
    """Returns flat images whose color encodes their number."""
    return [np.full((size, size, 3), (number % 16 * 16, number // 16 * 16, 96), np.uint8) for number in numbers]


def numbers_of(images):
    """Returns the numbers that the colors of flat images encode."""
    return [int(image[0, 0, 0]) // 16 + int(image[0, 0, 1]) // 16 * 16 for image in images]


def without_dates(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("created")
    return {**manifest, "history": [{**event, "date": ""} for event in manifest["history"]]}


def same_files(one, other):
    """Returns whether two databases are equal bit for bit, except the dates in their manifests."""
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
    """Returns the numbers of the rows that are not near to an earlier kept row, by a slow loop."""
    vectors, kept = unit(rows), []
    for i, vector in enumerate(vectors):
        if all(vectors[j] @ vector < threshold for j in kept):
            kept.append(i)
    return kept


def write_images(root, count, seed=0, size=(12, 10)):
    """Writes smooth random images into two class folders."""
    generator = np.random.default_rng(seed)
    for i in range(count):
        path = root / ("cats", "dogs")[i % 2] / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = generator.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
        image.save(path)
    return root


def image_bytes(image, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def encoder():
    return RandomEncoder()


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "zoo", 300)


@pytest.fixture(scope="session")
def source(images):
    return open_source(str(images))


@pytest.fixture(scope="session")
def database(source, encoder, tmp_path_factory):
    """Returns a database of 300 rows; tests must not change its files."""
    out = tmp_path_factory.mktemp("databases") / "zoo"
    build(source, encoder, out)
    return Database.open(out)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Returns the folder of a model of a few random weights, which the workers of a cluster load."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.bundle().save(folder, "float32")
    return folder


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """Returns a source of 50 images, one of them broken."""
    folder = write_images(tmp_path_factory.mktemp("zoo") / "zoo", 50)
    (folder / "cats" / "0030.png").write_bytes(b"not an image")
    return open_source(str(folder))


@pytest.fixture(scope="session")
def job(zoo, model):
    """Returns the job of a database of them, in five parts; float32 shows the last bit."""
    encoder = ClipEncoder(Bundle.open(model, parts=("clip",)), 8)
    return BuildJob.of(zoo, encoder, BuildOptions(part_size=10, dtype="float32"))


@pytest.fixture(scope="session")
def local(job, tmp_path_factory):
    """Returns the folder of the local build."""
    out = tmp_path_factory.mktemp("local") / "zoo"
    build_database(job, out)
    return out
