"""Databases of uploads: what is read, what is refused, and what happens to them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.database import Database
from rdm_jax.studio import catalog
from rdm_jax.studio.choice import Choices
from rdm_jax.studio.wanted import Wanted


def png(color: int, size: int = 16) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), color, np.uint8)).save(data, "PNG")
    return data.getvalue()


def write(folder: Path, **files: bytes) -> list[tuple[Path, str]]:
    given = []
    for number, (name, data) in enumerate(files.items()):
        path = folder / f"upload-{number}{Path(name).suffix}"
        path.write_bytes(data)
        given.append((path, name))
    return given


def last(job):
    *_, status = job.statuses()
    return status


def test_images_and_zips_become_a_database_with_captions_from_their_names(workshop, tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("../../etc/blue-tree.png", png(40))
        packed.writestr("notes.md", b"no image")
    square = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 2"><path d="M0 0h1v1z"/></svg>'
    given = write(tmp_path, **{"red_boat.png": png(10), "more.zip": archive.getvalue(), "star.svg": square})
    status = last(catalog.build(workshop, "tiny", "My Art! /../", given))
    assert status.error == "" and status.result == "My-Art"
    database = Database.open(workshop.places.database("My-Art"))
    assert sorted(database.column("caption").to_pylist()) == ["blue tree", "red boat", "star"]
    assert last(catalog.build(workshop, "tiny", "My Art", given)).result == "My-Art-2"
    assert not any(path.is_dir() for path in workshop.places.uploads.iterdir())


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({}, "there are no images"),
        ({"a.txt": b"words", "b.exe": b"MZ"}, "none of the files is an image"),
        ({"a.png": b"no image at all"}, "left out: 1 not a readable image"),
        ({"a.zip": b"PK no zip"}, "the zip cannot be read"),
    ],
)
def test_hostile_uploads_are_one_line(workshop, tmp_path, files, line):
    before = set(workshop.places.known_databases())
    status = last(catalog.build(workshop, "tiny", "hostile", write(tmp_path, **files)))
    assert line in status.error and "\n" not in status.error
    assert set(workshop.places.known_databases()) == before
    assert not any(one.name.startswith(".") for one in workshop.places.databases.iterdir())


def test_bombs_are_refused_before_they_are_unpacked(workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "MOST_FILES", 3)
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as packed:
        for number in range(5):
            packed.writestr(f"{number}.png", png(number))
    assert (
        "more than 3 images"
        in last(catalog.build(workshop, "tiny", "many", write(tmp_path, **{"m.zip": many.getvalue()}))).error
    )
    monkeypatch.setattr(catalog, "LARGEST", 100)
    large = io.BytesIO()
    with zipfile.ZipFile(large, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("0.png", b"\0" * 10_000_000)
    assert (
        "has more than"
        in last(catalog.build(workshop, "tiny", "large", write(tmp_path, **{"l.zip": large.getvalue()}))).error
    )


def test_an_svg_that_reads_files_reads_none(workshop, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(0))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" xmlns:x="http://www.w3.org/1999/xlink">'
        f'<image x:href="{secret}" width="16" height="16"/></svg>'
    )
    status = last(catalog.build(workshop, "tiny", "spy", write(tmp_path, **{"spy.svg": svg.encode()})))
    assert status.error and "spy" not in workshop.places.known_databases()


def test_rows_are_paged_searched_removed_merged_and_exported(workshop, tmp_path):
    name = catalog.merge(workshop.places, ["squares", "others"], "both")
    assert name == "both" and len(catalog.page(workshop.places, "both", 0, 100)) == 24
    assert catalog.page(workshop.places, "both", 24, 12) == []
    (first, *_) = catalog.page(workshop.places, "both", 0, 5)
    sha = Database.open(workshop.places.database("both")).items([0])[0]["id"]
    assert catalog.remove(workshop.places, "both", first.row) == 23
    assert sha not in Database.open(workshop.places.database("both")).column("id").to_pylist()
    found = workshop.search("tiny", [workshop.places.database("both")], "a red boat", 5)
    assert len(found) == 5 and found[0].score >= found[-1].score
    archive = catalog.export(workshop.places, "both")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path)
    assert len(Database.open(tmp_path / "both")) == 23
    shown = workshop.neighbors("tiny", Wanted(("a",), databases=(str(tmp_path / "both"),)), Choices())
    assert shown
    with pytest.raises(UserError, match="two databases or more"):
        catalog.merge(workshop.places, ["both"], "")
    weighted = catalog.merge(workshop.places, ["squares", "others"], "weighted", "1, 3")
    assert len(Database.open(workshop.places.database(weighted))) == 4 + 12
    for weights, line in {"1": "there are 1 weights for 2", "a, b": "are no numbers", "1 -1": "above 0"}.items():
        with pytest.raises(UserError, match=line):
            catalog.merge(workshop.places, ["squares", "others"], "wrong", weights)
    assert "wrong" not in workshop.places.known_databases()


def test_a_map_marks_the_neighbors_of_a_text(workshop):
    plain, searched = (catalog.plot(workshop, "tiny", "squares", text) for text in ("", "a red boat"))
    assert plain.dtype == np.uint8 and plain.shape == searched.shape
    assert not np.array_equal(plain, searched)
    with pytest.raises(UserError, match="unknown database"):
        catalog.plot(workshop, "tiny", "../squares", "")


def test_databases_of_the_package_stay_as_they_are(workshop):
    (first, *_) = catalog.page(workshop.places, "neon", 0, 1)
    with pytest.raises(UserError, match="comes with the package"):
        catalog.remove(workshop.places, "neon", first.row)
