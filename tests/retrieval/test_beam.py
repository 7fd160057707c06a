"""A Beam pipeline writes the same rows as the local build, to any place, and resumes after a stop."""

from __future__ import annotations

import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.beam_runner import BeamRunner
from rdm_jax.retrieval.cluster import build_on_cluster, neighbors_on_cluster
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.jobs import Execution
from rdm_jax.retrieval.neighbors import NeighborJob, NeighborOptions, compute_neighbors
from rdm_jax.retrieval.remote_workspace import RemoteWorkspace
from tests.retrieval.conftest import same_files

pytest.importorskip("apache_beam")

# Beam and the packages below it warn of their own future changes.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SEVERAL = "--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_processing"


@pytest.mark.parametrize("options", ["", SEVERAL], ids=["in-process", "two processes"])
def test_a_pipeline_writes_the_rows_of_the_local_build(job, model, local, tmp_path, options):
    out = tmp_path / "zoo"
    assert build_on_cluster(job, str(model), str(out), BeamRunner(options)).count == 49
    assert same_files(out, local)
    assert [path.name for path in tmp_path.iterdir()] == ["zoo"]


def test_a_stopped_pipeline_resumes(job, model, local, tmp_path, monkeypatch):
    before, after = [], []
    write = RemoteWorkspace.write

    def killed(self, number, make):
        if len(before) == 1:
            raise KeyboardInterrupt
        before.append(number)
        return write(self, number, make)

    address = f"file://{tmp_path}/bucket/zoo"
    with monkeypatch.context() as patch, pytest.raises(BaseException):  # noqa: B017 - Beam wraps the exception
        patch.setattr(RemoteWorkspace, "write", killed)
        build_on_cluster(job, str(model), address, BeamRunner())
    monkeypatch.setattr(RemoteWorkspace, "write", lambda *args: (after.append(args[1]), write(*args))[1])
    assert build_on_cluster(job, str(model), address, BeamRunner()).count == 49
    assert len(before) == 1 and sorted(before + after) == [0, 1, 2, 3, 4]
    assert same_files(tmp_path / "bucket" / "zoo", local)


def test_neighbors_are_those_of_the_local_run(job, model, local, tmp_path):
    near = NeighborJob(job.source, job.encoder, Database.open(local), NeighborOptions(4, part_size=20))
    compute_neighbors(near, tmp_path / "one")
    neighbors_on_cluster(near, str(model), str(local), str(tmp_path / "two"), BeamRunner())
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_too_many_broken_images_are_refused(job, model, tmp_path):
    out = str(tmp_path / "zoo")
    with pytest.raises(UserError, match=r"1 of the first 20 images of zoo cannot be read"):
        build_on_cluster(job, str(model), out, BeamRunner(), Execution(max_skip=0.0))
    assert not (tmp_path / "zoo").exists()
    assert build_on_cluster(job, str(model), out, BeamRunner()).resumed == 50  # the parts exist already
