"""A Beam pipeline writes the same rows as the local build, to any place, and resumes after a stop."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval.build import BuildOptions, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.neighbors import NeighborOptions, compute_neighbors
from rdm_jax.retrieval.sidecar import NeighborSidecar
from tests.helpers import tiny
from tests.retrieval.conftest import same_files, write_images

pytest.importorskip("apache_beam")

from rdm_jax.retrieval import beam

# Beam and the packages below it warn of their own future changes.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SEVERAL = ["--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.bundle().save(folder, "float32")
    return beam.EncoderSpec(str(folder), 8)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Returns 50 images, one of them broken."""
    folder = write_images(tmp_path_factory.mktemp("images") / "zoo", 50)
    (folder / "cats" / "0030.png").write_bytes(b"not an image")
    return open_source(str(folder))


@pytest.fixture(scope="module")
def spec(source, encoder):
    return beam.BuildSpec(source, encoder, BuildOptions(part_size=20))


@pytest.fixture(scope="module")
def local(spec, tmp_path_factory):
    """Returns the folder of the local build."""
    out = tmp_path_factory.mktemp("local") / "zoo"
    build_database(spec.load(), out)
    return out


@pytest.mark.parametrize("options", [[], SEVERAL], ids=["in-process", "two processes"])
def test_a_pipeline_writes_the_rows_of_the_local_build(spec, local, tmp_path, options):
    out = tmp_path / "zoo"
    assert beam.build_with_beam(spec, str(out), pipeline_options=options) == 49
    assert same_files(out, local)
    assert [path.name for path in tmp_path.iterdir()] == ["zoo"]


def test_a_pipeline_writes_a_database_to_object_storage(spec, local, tmp_path, monkeypatch):
    monkeypatch.setenv("RDM_CACHE", str(tmp_path / "cache"))
    address = f"file://{tmp_path}/bucket/zoo"
    assert beam.build_with_beam(spec, address) == 49
    assert same_files(tmp_path / "bucket" / "zoo", local)
    database = Database.open(address)
    assert database.digest == Database.open(local).digest and database.path.is_relative_to(tmp_path / "cache")
    with pytest.raises(UserError, match="exists already"):
        beam.build_with_beam(spec, address)


def test_a_stopped_pipeline_resumes(spec, local, tmp_path, monkeypatch):
    before, after = [], []
    write = beam.RemoteWorkspace.write

    def killed(self, number, make):
        if len(before) == 1:
            raise KeyboardInterrupt
        before.append(number)
        return write(self, number, make)

    address = f"file://{tmp_path}/bucket/zoo"
    with monkeypatch.context() as patch, pytest.raises(BaseException):  # noqa: B017 - Beam wraps the exception
        patch.setattr(beam.RemoteWorkspace, "write", killed)
        beam.build_with_beam(spec, address)
    other = dataclasses.replace(spec, options=BuildOptions(part_size=20, dtype="float32"))
    with pytest.raises(UserError, match="holds an unfinished run with another dtype"):
        beam.build_with_beam(other, address)
    monkeypatch.setattr(beam.RemoteWorkspace, "write", lambda *args: (after.append(args[1]), write(*args))[1])
    assert beam.build_with_beam(spec, address) == 49
    assert len(before) == 1 and sorted(before + after) == [0, 1, 2]
    assert same_files(tmp_path / "bucket" / "zoo", local)


def test_neighbors_are_those_of_the_local_run(source, encoder, local, tmp_path):
    spec = beam.NeighborSpec(source, encoder, str(local), NeighborOptions(4, part_size=20))
    compute_neighbors(spec.load(), tmp_path / "one")
    beam.neighbors_with_beam(spec, str(tmp_path / "two"))
    beam.neighbors_with_beam(spec, f"file://{tmp_path}/three")
    for name in ("two", "three"):
        names = sorted(path.name for path in (tmp_path / "one").iterdir())
        assert names == sorted(path.name for path in (tmp_path / name).iterdir())
        assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / name / file).read_bytes() for file in names)
    assert (NeighborSidecar.open(tmp_path / "two").ids(range(50)) >= -1).all()
    with pytest.raises(UserError, match="k 99 is out of range"):
        beam.neighbors_with_beam(dataclasses.replace(spec, options=NeighborOptions(99)), str(tmp_path / "four"))


def test_too_many_broken_images_and_an_existing_folder_are_refused(spec, local, tmp_path):
    out = str(tmp_path / "zoo")
    with pytest.raises(UserError, match=r"1 of the first 50 images of zoo cannot be read"):
        beam.build_with_beam(spec, out, max_skip=0.0)
    assert not (tmp_path / "zoo").exists()
    assert beam.build_with_beam(spec, out) == 49  # the parts exist already
    with pytest.raises(UserError, match="exists already"):
        beam.build_with_beam(spec, str(local))


def test_a_pipeline_does_not_omit_near_duplicates(spec, tmp_path):
    near = dataclasses.replace(spec, options=BuildOptions(duplicates=0.97))
    with pytest.raises(UserError, match="omit near-duplicates afterwards"):
        beam.build_with_beam(near, str(tmp_path / "zoo"))


def test_rows_are_those_of_the_encoder(source, encoder, local):
    good = [i for i in range(50) if source.entries[i].path != "cats/0030.png"]
    rows = np.asarray(Database.open(Path(local)).rows, np.float32)
    np.testing.assert_allclose(rows, encoder.load().encode_images([source[i].image for i in good]), atol=2e-3)
