"""Image data sets of Hugging Face's library as a source; the library itself writes them."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rdm_jax.core import images
from rdm_jax.core.errors import UserError
from rdm_jax.data.examples import select_examples
from rdm_jax.data.selection import Selection
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval.database import Database
from tests.retrieval.conftest import RandomEncoder, build

reason = "data sets of Hugging Face need the extra: pip install 'rdm_jax[datasets]'"
datasets = pytest.importorskip("datasets", reason=reason)

COUNT = 7
STYLES = ["ink", "oil"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RDM_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    return tmp_path / "cache"


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (12, 9, 3), dtype=np.uint8)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(number)).save(buffer, "PNG")
    return buffer.getvalue()


def made(numbers: range = range(COUNT)) -> Any:
    """Returns a data set of the library."""
    features = datasets.Features(
        {
            "checksum": datasets.Value("binary"),
            "image": datasets.Image(),
            "style": datasets.ClassLabel(names=STYLES),
            "text": datasets.Value("string"),
            "number": datasets.Value("int64"),
            "artist": datasets.Value("string"),
            "tags": datasets.Sequence(datasets.Value("string")),
        }
    )
    rows = [
        {
            "checksum": b"\x00",
            "image": {"bytes": png(i), "path": None},
            "style": i % 2,
            "text": f"caption {i}",
            "number": i,
            "artist": None if i == 3 else f"artist {i}",
            "tags": ["a", "b"],
        }
        for i in numbers
    ]
    return datasets.Dataset.from_list(rows, features=features)


def expected(number: int) -> dict[str, str]:
    labels = {
        "style": STYLES[number % 2],
        "number": str(number),
        "path": f"{number:08d}",
        "caption": f"caption {number}",
    }
    return labels if number == 3 else {**labels, "artist": f"artist {number}"}


def parquet_folder(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    for shard in range(2):
        made().shard(2, shard, contiguous=True).to_parquet(folder / f"data/train-{shard:05d}-of-00002.parquet")
    made(range(20, 22)).to_parquet(folder / "data/test-00000-of-00001.parquet")
    return folder


def saved_folder(folder: Path) -> Path:
    made().save_to_disk(folder, num_shards=3)
    return folder


def saved_splits(folder: Path) -> Path:
    datasets.DatasetDict({"train": made(), "test": made(range(20, 22))}).save_to_disk(folder)
    return folder


def parquet_file(folder: Path) -> Path:
    folder.mkdir()
    made().to_parquet(folder / "set.parquet")
    return folder / "set.parquet"


FORMS = [parquet_folder, saved_folder, saved_splits, parquet_file]


@pytest.mark.parametrize("write", FORMS)
def test_rows_images_captions_and_columns_are_those_of_the_library(tmp_path: Path, write: Any):
    source = open_source(str(write(tmp_path / "set")))
    assert source.name == "set" and len(source) == COUNT and source.captions == "column 'text'"
    assert sum(source.shard_lengths) == COUNT
    for number in (5, 0, 3, 6, 1, 2, 4):
        example = source[number]
        np.testing.assert_array_equal(example.image, pixels(number))
        labels = source.labels(number)
        assert labels == expected(number)
        assert labels == {**example.attributes, "path": example.path, "caption": example.caption}
    with pytest.raises(IndexError):
        source[COUNT]
    again = pickle.loads(pickle.dumps(source))
    assert again.fingerprint == source.fingerprint and again.labels(2) == source.labels(2)


@pytest.mark.parametrize("write", [parquet_folder, saved_splits])
def test_splits_are_those_of_the_library(tmp_path: Path, write: Any):
    folder = str(write(tmp_path / "set"))
    assert open_source(folder, "test").labels(0)["caption"] == "caption 20" and len(open_source(folder, "test")) == 2
    assert open_source(folder, "test").fingerprint != open_source(folder, "train").fingerprint
    assert open_source(folder).fingerprint == open_source(folder, "train").fingerprint
    with pytest.raises(UserError, match=r"unknown split 'tset'; did you mean 'test'\? \(known: test, train\)"):
        open_source(folder, "tset")


def test_the_fingerprint_changes_with_the_bytes_and_not_with_the_place(tmp_path: Path):
    first = open_source(str(parquet_folder(tmp_path / "a")))
    assert open_source(str(parquet_folder(tmp_path / "b"))).fingerprint == first.fingerprint
    made(range(1, 4)).to_parquet(tmp_path / "b/data/train-00000-of-00002.parquet")
    changed = open_source(str(tmp_path / "b"))
    assert changed.fingerprint != first.fingerprint and changed.labels(0)["caption"] == "caption 1"


def test_bytes_without_the_type_of_images_serve_as_well(tmp_path: Path):
    """As img2dataset writes with output_format=parquet, and pandas with a structure of bytes and path."""
    table = {"key": ["000", "001"], "caption": ["one", "two"], "jpg": [png(1), png(2)], "width": [9, None]}
    pq.write_table(pa.table(table), tmp_path / "plain.parquet")
    source = open_source(str(tmp_path / "plain.parquet"))
    np.testing.assert_array_equal(source[1].image, pixels(2))
    assert source.labels(0) == {"key": "000", "width": "9", "path": "00000000", "caption": "one"}
    assert source.labels(1) == {"key": "001", "path": "00000001", "caption": "two"}
    structure = {"image": [{"bytes": png(3), "path": "3.png"}], "file_name": ["three.png"], "captions": [["a", "b"]]}
    pq.write_table(pa.table(structure), tmp_path / "structure.parquet")
    source = open_source(str(tmp_path / "structure.parquet"))
    np.testing.assert_array_equal(source[0].image, pixels(3))
    assert source.labels(0) == {"path": "three.png", "caption": "a"}


def test_an_image_that_is_only_named_is_never_fetched(tmp_path: Path):
    rows = {"image": [{"bytes": None, "path": "https://example.org/a.png"}, {"bytes": b"no image", "path": None}]}
    features = datasets.Features({"image": datasets.Image()})
    table = datasets.Dataset.from_dict(rows, features=features).data.table  # the library's writer would fetch the image
    pq.write_table(table, tmp_path / "set.parquet")
    source = open_source(str(tmp_path / "set.parquet"))
    with pytest.raises(ValueError, match=r"00000000: the row has no bytes .* the name https://example.org/a.png"):
        source[0]
    with pytest.raises(ValueError, match=r"00000001: not a readable image"):
        source[1]


def test_sets_without_images_rows_or_sense_are_refused(tmp_path: Path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "texts.parquet")
    with pytest.raises(UserError, match=r"has no column of images \(only text\); choose another"):
        open_source(str(tmp_path / "texts.parquet"))
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(UserError, match=r"datasets cannot read .*damaged.parquet \(.*\); check the files"):
        open_source(str(tmp_path / "damaged.parquet"))


def test_a_database_is_built_of_rows_that_a_column_selects(tmp_path: Path):
    source = open_source(str(parquet_folder(tmp_path / "set")))
    chosen = select_examples(source, Selection((("style", "ink"),), (("artist", "artist 2"),)))
    build(chosen, RandomEncoder(), tmp_path / "ink")
    items = Database.open(tmp_path / "ink").items(range(3))
    assert [item["caption"] for item in items] == ["caption 0", "caption 4", "caption 6"]
    assert [item["attributes"]["number"] for item in items] == ["0", "4", "6"]


@pytest.mark.parametrize("write", [parquet_folder, saved_folder])
def test_a_set_in_object_storage_is_copied_once(tmp_path: Path, write: Any):
    memory = fsspec.filesystem("memory")
    folder = write(tmp_path / "set")
    address = f"memory://bucket-{write.__name__}/set"
    memory.put(f"{folder}{os.sep}", f"{address}/", recursive=True)
    try:
        source, local = open_source(address), open_source(str(folder))
        assert source.name == "set" and source.fingerprint == local.fingerprint
        assert source.labels(3) == local.labels(3)
    finally:
        memory.rm(address, recursive=True)


def test_pixels_are_decoded_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = open_source(str(parquet_file(tmp_path / "set")))
    monkeypatch.setattr(images, "decode", lambda data: np.full((1, 1, 3), len(data) % 256, np.uint8))
    assert source[0].image[0, 0, 0] == len(png(0)) % 256
