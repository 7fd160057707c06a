"""What the workers of a cluster share: the checks, the places, the ends, whatever distributes the parts."""

from __future__ import annotations

import dataclasses
import pickle
import shutil

import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval import cluster
from rdm_jax.retrieval.build import BuildJob
from rdm_jax.retrieval.cluster import build_on_cluster, neighbors_on_cluster
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.jobs import Execution
from rdm_jax.retrieval.neighbors import NeighborJob, NeighborOptions, compute_neighbors
from rdm_jax.retrieval.parts import ProcessIndex, Workspace
from rdm_jax.retrieval.remote_workspace import RemoteWorkspace
from rdm_jax.retrieval.sidecar import NeighborSidecar
from tests.helpers import tiny
from tests.retrieval.conftest import same_files, write_images


@dataclasses.dataclass
class Here:
    """A runner whose only worker is this process, which receives what others would.

    Attributes:
      before: called with the number of each part before it is made.
      made: the numbers of the parts that were made.
    """

    before: object = None
    made: list[int] = dataclasses.field(default_factory=list)

    def run(self, make, numbers):
        received = pickle.loads(pickle.dumps(make))
        for number in numbers:
            if self.before:
                self.before(number)
            yield received(number)
            self.made.append(number)


def test_rows_are_those_of_the_local_build(job, model, local, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen, here = [], Here()
    report = build_on_cluster(job, str(model), "zoo", here, Execution(progress=lambda *both: seen.append(both)))
    assert (report.count, len(report.skipped), report.state) == (49, 1, "built") and here.made == [0, 1, 2, 3, 4]
    assert same_files(tmp_path / "zoo", local)
    assert [path.name for path in tmp_path.iterdir()] == ["zoo"]
    assert seen == [(done, 50) for done in range(0, 51, 10)]
    again = build_on_cluster(job, str(model), "zoo", Here(before=pytest.fail))
    assert again.state == "finished before" and again.count == 49


def test_several_runs_share_the_work(job, model, local, tmp_path):
    out = tmp_path / "zoo"
    first = build_on_cluster(job, str(model), str(out), here := Here(), Execution(process=ProcessIndex(1, 2)))
    assert first.state == "parts missing" and here.made == [1, 3]
    assert build_on_cluster(job, str(model), str(out), here := Here()).resumed == 20 and here.made == [0, 2, 4]
    assert same_files(out, local)


def test_a_database_in_object_storage(job, model, local, tmp_path, monkeypatch):
    monkeypatch.setenv("RDM_CACHE", str(tmp_path / "cache"))
    address = f"file://{tmp_path}/bucket/zoo"
    assert build_on_cluster(job, str(model), address, Here()).count == 49
    assert same_files(tmp_path / "bucket" / "zoo", local)
    database = Database.open(address)
    assert database.digest == Database.open(local).digest and database.path.is_relative_to(tmp_path / "cache")
    with pytest.raises(UserError, match="exists already"):
        build_on_cluster(job, str(model), address, Here())


@pytest.mark.parametrize("remote", [False, True])
def test_a_stopped_run_resumes(job, model, local, tmp_path, remote):
    out = f"file://{tmp_path}/bucket/zoo" if remote else str(tmp_path / "bucket" / "zoo")

    def stop(number):
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_on_cluster(job, str(model), out, Here(stop))
    other = dataclasses.replace(job, options=dataclasses.replace(job.options, dtype="float16"))
    with pytest.raises(UserError, match="holds an unfinished run with another dtype"):
        build_on_cluster(other, str(model), out, Here())
    report = build_on_cluster(job, str(model), out, here := Here())
    assert (report.count, report.resumed, here.made) == (49, 20, [2, 3, 4])
    assert same_files(tmp_path / "bucket" / "zoo", local)


def test_rows_are_appended_and_near_duplicates_omitted_in_a_folder_only(job, model, local, tmp_path):
    more = BuildJob.of(open_source(str(write_images(tmp_path / "more", 12, seed=1))), job.encoder, job.options)
    shutil.copytree(local, tmp_path / "zoo")
    assert build_on_cluster(more, str(model), str(tmp_path / "zoo"), Here(), append=True).count == 49 + 12
    near = dataclasses.replace(job, options=dataclasses.replace(job.options, duplicates=0.9))
    assert build_on_cluster(near, str(model), str(tmp_path / "near"), Here()).duplicates > 0
    for changed, append in ((near, False), (job, True)):
        with pytest.raises(UserError, match="in a copy on a local disk"):
            build_on_cluster(changed, str(model), f"file://{tmp_path}/bucket/zoo", Here(), append=append)


def test_neighbors_are_those_of_the_local_run(job, model, local, tmp_path):
    near = NeighborJob(job.source, job.encoder, Database.open(local), NeighborOptions(4, part_size=20))
    compute_neighbors(near, tmp_path / "one")
    assert neighbors_on_cluster(near, str(model), str(local), str(tmp_path / "two"), Here()).count == 50
    address = f"file://{tmp_path}/three"
    first = neighbors_on_cluster(near, str(model), str(local), address, Here(), Execution(process=ProcessIndex(0, 2)))
    assert first.missing == 1
    assert neighbors_on_cluster(near, str(model), str(local), address, Here()).resumed == 30
    for name in ("two", "three"):
        names = sorted(path.name for path in (tmp_path / "one").iterdir())
        assert names == sorted(path.name for path in (tmp_path / name).iterdir())
        assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / name / file).read_bytes() for file in names)
    assert (NeighborSidecar.open(tmp_path / "two").ids(range(50)) >= -1).all()


def test_too_many_broken_images_stop_the_run_early(job, model, tmp_path):
    here = Here()
    with pytest.raises(UserError, match=r"1 of the first 20 images of zoo cannot be read"):
        build_on_cluster(job, str(model), str(tmp_path / "zoo"), here, Execution(max_skip=0.0))
    assert not (tmp_path / "zoo").exists() and len(here.made) < 5
    assert build_on_cluster(job, str(model), str(tmp_path / "zoo"), Here()).count == 49


def failure(job, model, out, before):
    """Returns the one line of a run whose worker finds something else than the machine that started it."""
    with pytest.raises(UserError) as caught:
        build_on_cluster(job, str(model), str(out), Here(before))
    assert "\n" not in str(caught.value) and not out.exists()
    return str(caught.value)


def test_a_worker_that_cannot_do_its_work_stops_the_run_in_one_line(job, zoo, tmp_path, monkeypatch):
    model = tmp_path / "tiny"
    tiny.bundle().save(model, "float32")
    other = tiny.bundle(name="other")
    out = tmp_path / "zoo"

    def swap(number):
        shutil.rmtree(model)
        other.save(model, "float32")

    line = failure(job, model, out, lambda number: shutil.rmtree(model))
    assert line.startswith("a worker on ")
    assert f"it cannot load the model or the database (unknown model '{model}'" in line
    tiny.bundle().save(model, "float32")
    line = failure(job, model, out, swap)
    assert "it has another encoder by the same name; every worker needs the same files" in line


def test_a_worker_that_sees_other_folders_stops_the_run_in_one_line(job, model, tmp_path):
    images = write_images(tmp_path / "images", 50)
    job = BuildJob.of(open_source(str(images)), job.encoder, job.options)

    def change(number):
        write_images(images, 50, seed=1)

    line = failure(job, model, tmp_path / "zoo", lambda number: shutil.rmtree(tmp_path / ".zoo.partial"))
    assert f"it does not see {tmp_path}/.zoo.partial" in line
    assert "it reads other pixels of cats/0000.png" in failure(job, model, tmp_path / "zoo", change)
    line = failure(job, model, tmp_path / "zoo", lambda number: shutil.rmtree(images))
    assert "it cannot read the images of images (cats/0000.png: " in line


def test_images_that_are_all_broken_are_named(job, model, tmp_path):
    images = write_images(tmp_path / "images", 3)
    for file in images.rglob("*.png"):
        file.write_bytes(b"not an image")
    job = BuildJob.of(open_source(str(images)), job.encoder, job.options)
    with pytest.raises(UserError, match="3 of the first 3 images of images cannot be read"):
        build_on_cluster(job, str(model), str(tmp_path / "zoo"), Here())


def test_a_shared_folder_may_show_a_part_late(job, model, local, tmp_path, monkeypatch):
    notes, hidden = Workspace.notes, [3, 1, 4]

    def late(self, number):
        if hidden:
            hidden.pop()
            raise FileNotFoundError(number)
        return notes(self, number)

    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(Workspace, "notes", late)
    build_on_cluster(job, str(model), str(tmp_path / "zoo"), Here())
    assert same_files(tmp_path / "zoo", local)
    hidden += range(1000)
    monkeypatch.setattr(cluster, "VISIBLE_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"a worker has written part 0, and .*\.new\.partial does not show it"):
        build_on_cluster(job, str(model), str(tmp_path / "new"), Here())


def test_a_damaged_record_in_object_storage_is_named(job, tmp_path):
    address = f"file://{tmp_path}/bucket"
    RemoteWorkspace.at(address, job.record, 5)
    (tmp_path / "bucket" / "parts" / "plan.json").write_text("{")
    with pytest.raises(UserError, match="holds a damaged run"):
        RemoteWorkspace.at(address, job.record, 5)
