from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.opening import database_place
from tests.retrieval.conftest import RandomEncoder, write_images

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle cx="4" cy="4" r="3" fill="red"/></svg>'


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "my-icons", 6)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RDM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_of_images_becomes_a_database_of_its_images(images: Path, cache: Path):
    encoder, steps = RandomEncoder(), []
    (images / "circle.svg").write_text(SVG)
    place = database_place(encoder, images, lambda *step: steps.append(step))
    assert cache in Path(place).parents
    assert steps[-1] == (7, 7)
    database = Database.open(place)
    database.check_encoder(encoder.identity)
    assert database.name == "my-icons"
    assert sorted(item["path"] for item in database.items(range(7))) == sorted(
        path.relative_to(images).as_posix() for path in images.rglob("*.*")
    )
    circle = database.items(range(7)).index(next(i for i in database.items(range(7)) if i["path"] == "circle.svg"))
    np.testing.assert_array_equal(database.thumbnails([circle])[0, 28, 28], (255, 0, 0))


def test_it_is_built_once_for_the_same_contents(images: Path, cache: Path, tmp_path: Path):
    encoder = RandomEncoder()
    first = database_place(encoder, images)
    calls = encoder.calls
    assert database_place(encoder, str(images)) == first
    copy = shutil.copytree(images, tmp_path / "elsewhere" / "my-icons")
    with zipfile.ZipFile(tmp_path / "my-icons.zip", "w") as archive:
        for path in sorted(images.rglob("*.png")):
            archive.write(path, path.relative_to(images))
    assert database_place(encoder, copy) == database_place(encoder, tmp_path / "my-icons.zip") == first
    assert encoder.calls == calls
    assert len(list((cache / "databases").glob("*/manifest.json"))) == 1


def test_it_is_built_again_when_an_image_a_caption_or_the_encoder_changes(images: Path, cache: Path):
    places = [database_place(RandomEncoder(), images), database_place(RandomEncoder(seed=1), images)]
    image = next(images.rglob("*.png"))
    image.with_suffix(".txt").write_text("a caption")
    places.append(database_place(RandomEncoder(), images))
    image.unlink()
    places.append(database_place(RandomEncoder(), images))
    assert len(set(places)) == 4
    assert len(Database.open(places[-1])) == 5


def test_a_database_is_used_as_it_is(images: Path, cache: Path):
    encoder = RandomEncoder()
    place = database_place(encoder, images)
    assert database_place(encoder, place) == place
    assert database_place(encoder, "neon") == "neon"
    assert database_place(encoder, "gs://bucket/folder") == "gs://bucket/folder"


def test_a_folder_without_images_and_a_missing_one_are_no_databases(tmp_path: Path, cache: Path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        with pytest.raises(UserError):
            Database.open(database_place(RandomEncoder(), tmp_path / name))
    (tmp_path / "damaged.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"damaged\.zip"):
        database_place(RandomEncoder(), tmp_path / "damaged.zip")
    assert not cache.exists()
