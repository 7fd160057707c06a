"""A Beam pipeline makes the same rows as the local build, wherever they go, and goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval.build import Recipe, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.neighbors import Plan, compute_neighbors
from rdm_jax.retrieval.sidecar import NeighborSidecar
from tests.helpers import tiny
from tests.retrieval.conftest import write_pictures

pytest.importorskip("apache_beam")

from rdm_jax.retrieval import beam

# Beam and the packages below it warn of their own futures.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SEVERAL = ["--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing"]
RECIPE = Recipe(part_size=20)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.bundle().save(folder, "float32")
    return beam.EncoderSpec(str(folder), 8)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Returns 50 pictures, one of them broken."""
    folder = write_pictures(tmp_path_factory.mktemp("pictures") / "zoo", 50)
    (folder / "cats" / "0030.png").write_bytes(b"no picture")
    return open_source(str(folder))


@pytest.fixture(scope="module")
def local(source, spec, tmp_path_factory):
    out = tmp_path_factory.mktemp("local") / "zoo"
    build_database(source, spec.open(), out, RECIPE)
    return out


def without_dates(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("created")
    return {**manifest, "history": [{**event, "date": ""} for event in manifest["history"]]}


def same_files(one, other):
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names if name != "manifest.json")
    assert without_dates(one) == without_dates(other)


@pytest.mark.parametrize("options", [[], SEVERAL], ids=["in-process", "two processes"])
def test_a_pipeline_makes_the_rows_of_the_local_build(source, spec, local, tmp_path, options):
    out = tmp_path / "zoo"
    assert beam.build_with_beam(source, spec, str(out), RECIPE, options=options) == 49
    same_files(out, local)
    assert [path.name for path in tmp_path.iterdir()] == ["zoo"]


def test_a_pipeline_writes_to_object_storage_what_opens_as_a_database(source, spec, local, tmp_path, monkeypatch):
    monkeypatch.setenv("RDM_CACHE", str(tmp_path / "cache"))
    address = f"file://{tmp_path}/bucket/zoo"
    assert beam.build_with_beam(source, spec, address, RECIPE) == 49
    same_files(tmp_path / "bucket" / "zoo", local)
    database = Database.open(address)
    assert database.digest == Database.open(local).digest and database.path.is_relative_to(tmp_path / "cache")
    with pytest.raises(UserError, match="exists already"):
        beam.build_with_beam(source, spec, address, RECIPE)


def test_a_stopped_pipeline_goes_on(source, spec, local, tmp_path, monkeypatch):
    made = []
    write = beam.RemoteWorkspace.write

    def killed(self, number, make):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(number)
        return write(self, number, make)

    address = f"file://{tmp_path}/bucket/zoo"
    with monkeypatch.context() as patch, pytest.raises(BaseException):  # noqa: B017 - Beam wraps it as it likes
        patch.setattr(beam.RemoteWorkspace, "write", killed)
        beam.build_with_beam(source, spec, address, RECIPE)
    with pytest.raises(UserError, match="holds an unfinished run with another dtype"):
        beam.build_with_beam(source, spec, address, Recipe(part_size=20, dtype="float32"))
    again = []
    monkeypatch.setattr(beam.RemoteWorkspace, "write", lambda *given: (again.append(given[1]), write(*given))[1])
    assert beam.build_with_beam(source, spec, address, RECIPE) == 49
    assert len(made) == 1 and sorted(made + again) == [0, 1, 2]
    same_files(tmp_path / "bucket" / "zoo", local)


def test_neighbours_are_those_of_the_local_run(source, spec, local, tmp_path):
    plan = Plan(4, part_size=20)
    compute_neighbors(source, spec.open(), Database.open(local), plan, tmp_path / "one")
    beam.neighbors_with_beam(source, spec, str(local), plan, str(tmp_path / "two"))
    beam.neighbors_with_beam(source, spec, str(local), plan, f"file://{tmp_path}/three")
    for name in ("two", "three"):
        names = sorted(path.name for path in (tmp_path / "one").iterdir())
        assert names == sorted(path.name for path in (tmp_path / name).iterdir())
        assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / name / file).read_bytes() for file in names)
    assert (NeighborSidecar.open(tmp_path / "two").ids(range(50)) >= -1).all()
    with pytest.raises(UserError, match="k 99 is out of range"):
        beam.neighbors_with_beam(source, spec, str(local), Plan(99), str(tmp_path / "four"))


def test_too_many_broken_pictures_and_a_folder_that_exists_are_refused(source, spec, local, tmp_path):
    with pytest.raises(UserError, match=r"1 of the first 50 pictures of zoo cannot be read"):
        beam.build_with_beam(source, spec, str(tmp_path / "zoo"), RECIPE, max_skip=0.0)
    assert not (tmp_path / "zoo").exists()
    assert beam.build_with_beam(source, spec, str(tmp_path / "zoo"), RECIPE) == 49  # of the parts that are there
    with pytest.raises(UserError, match="exists already"):
        beam.build_with_beam(source, spec, str(local), RECIPE)


def test_rows_are_those_that_the_encoder_gives(source, spec, local):
    good = [i for i in range(50) if source.entries[i].path != "cats/0030.png"]
    rows = np.asarray(Database.open(Path(local)).rows, np.float32)
    np.testing.assert_allclose(rows, spec.open().encode_images([source[i].image for i in good]), atol=2e-3)
