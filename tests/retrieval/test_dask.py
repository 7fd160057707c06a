"""A Dask scheduler with workers in processes of their own: they build what the local build does, and come and go."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib
import socket
import sys

import numpy as np
import pytest

from rdm_jax.cli.main import main
from rdm_jax.core.errors import UserError
from rdm_jax.retrieval import dask_runner
from rdm_jax.retrieval.cluster import build_on_cluster, neighbors_on_cluster
from rdm_jax.retrieval.dask_runner import DaskRunner
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.jobs import Execution
from rdm_jax.retrieval.neighbors import NeighborJob, NeighborOptions, compute_neighbors
from tests.helpers import dask_cluster
from tests.helpers.dask_cluster import Cluster, Gate, GatedSource, wait_for
from tests.retrieval.conftest import same_files

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Returns a cluster of one worker at first."""
    with Cluster.started(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.add()
        yield cluster


@pytest.fixture
def runner(cluster):
    return DaskRunner(str(cluster.file), wait=dask_cluster.SECONDS)


@pytest.fixture
def background():
    """Returns an executor of one thread."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.mark.slow
def test_a_worker_may_be_killed_and_another_one_may_join(cluster, runner, job, model, local, tmp_path, background):
    gate = Gate(tmp_path / "gate")
    gate.folder.mkdir()
    gated = dataclasses.replace(job, source=GatedSource(job.source, gate, (5, 15, 25, 35, 45)))
    out, seen = tmp_path / "zoo", []
    execution = Execution(progress=lambda *both: seen.append(both))
    build = background.submit(build_on_cluster, gated, str(model), str(out), runner, execution)
    wait_for(lambda: gate.entries() or build.done(), "the first worker makes a part")
    first, second = cluster.workers[0], cluster.add()
    wait_for(lambda: second.pid in gate.processes() or build.done(), "the second worker makes a part")
    cluster.kill(first)
    gate.open()
    assert build.result(dask_cluster.SECONDS).count == 49
    assert same_files(out, local)
    by_first, by_second = ({number for number, pid in gate.entries() if pid == one.pid} for one in (first, second))
    assert len(by_first) == 1 and by_second == {5, 15, 25, 35, 45}
    assert seen == [(done, 50) for done in range(0, 51, 10)]


@pytest.mark.slow
def test_the_command_shows_progress_and_resumes(cluster, model, job, local, tmp_path, capsys, monkeypatch):
    run, requested = DaskRunner.run, []

    def stopped(self, make, numbers):
        for count, number in enumerate(run(self, make, numbers)):
            if count == 2:
                raise KeyboardInterrupt
            yield number

    def recorded(self, make, numbers):
        requested.extend(numbers)
        return run(self, make, numbers)

    def command(*arguments):
        status = main([*map(str, arguments), "--encoder", str(model), "--runner", f"dask(scheduler='{cluster.file}')"])
        return status, capsys.readouterr().err

    out, images = tmp_path / "zoo", job.source.files.root
    build = ("database", "build", images, "--out", out, "--part-size", 2, "--dtype", "float32", "--batch-size", 8)
    monkeypatch.setattr(DaskRunner, "run", stopped)
    status, err = command(*build)
    assert status == 130 and "interrupted" in err
    before = {int(path.stem.removeprefix("part-")) for path in (tmp_path / ".zoo.partial").glob("part-*.json")}
    monkeypatch.setattr(DaskRunner, "run", recorded)
    status, err = command(*build)
    assert status == 0 and f"{2 * (25 - len(requested))} images were done before" in err
    assert "49 rows by encoder 'tiny', 1 skipped" in err and "embedding: 50/50 images in " in err
    # The worker may have ended one more part after the interruption.
    assert len(before) >= 2 and not set(requested) & before and len(before.union(requested)) >= 24
    np.testing.assert_array_equal(np.asarray(Database.open(out).rows), np.asarray(Database.open(local).rows))
    status, err = command("neighbors", "--dataset", images, "--database", out, "--k", 4, "--out", tmp_path / "near")
    assert status == 0 and "4 neighbors of 50 examples in 'zoo'" in err and "neighbors: 50/50 examples in " in err


@pytest.mark.slow
def test_a_worker_without_the_model_is_one_line(runner, job, tmp_path):
    model = tmp_path / "tiny"
    with pytest.raises(UserError) as caught:
        build_on_cluster(job, str(model), str(tmp_path / "zoo"), runner)
    assert str(caught.value).startswith("a worker on ") and "\n" not in str(caught.value)
    assert f"it cannot load the model or the database (unknown model '{model}'" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_processes_of_this_machine_compute_the_neighbors_of_the_local_run(job, model, local, tmp_path):
    near = NeighborJob(job.source, job.encoder, Database.open(local), NeighborOptions(4, part_size=20))
    compute_neighbors(near, tmp_path / "one")
    neighbors_on_cluster(near, str(model), str(local), str(tmp_path / "two"), DaskRunner(workers=1))
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


@pytest.mark.slow
def test_what_a_cluster_lacks_and_how_it_ends_is_one_line(tmp_path, background, monkeypatch, caplog):
    def line_of(work):
        with pytest.raises(UserError) as caught:
            list(runner.run(work, [7]))
        return str(caught.value)

    def other_version(self, **options):
        versions = get_versions(self, **options)
        versions["client"]["packages"]["rdm_jax"] = "99.9"
        return versions

    get_versions = distributed.Client.get_versions
    monkeypatch.setattr(dask_runner, "WORKERS_SECONDS", 0.1)
    library = tmp_path / "library"
    library.mkdir()
    (library / "only_here.py").write_text("def make(number):\n    return number\n")
    with Cluster.started(tmp_path, dask_distributed__scheduler__allowed_failures="0") as cluster:
        runner = DaskRunner(str(cluster.file), wait=dask_cluster.SECONDS)
        cluster.add()
        assert list(runner.run(dask_cluster.no_work, [3, 4])) == [3, 4]
        with monkeypatch.context() as patch:
            patch.setattr(distributed.Client, "get_versions", other_version)
            assert "the scheduler has rdm_jax" in line_of(dask_cluster.no_work)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(library))
            line = line_of(importlib.import_module("only_here").make)
        assert line.startswith("a worker cannot take the job") and "only_here" in line
        line = line_of(dask_cluster.end_process)
        assert line.startswith("part 7 has ended 1 workers, the last one tcp://127.0.0.1:") and "memory" in line
        caplog.clear()
        waiting = background.submit(line_of, dask_cluster.no_work)
        wait_for(lambda: "no worker is connected to tcp://127.0.0.1:" in caplog.text, "the warning")
        cluster.scheduler.kill()
        assert "the scheduler has stopped, or has dropped part 7; start it again" in waiting.result(
            dask_cluster.SECONDS
        )


def test_no_scheduler_is_one_line_after_a_bounded_wait(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for scheduler, line in (
        (f"tcp://{address}", f"no scheduler answers at tcp://{address} within 1 s .*start one with `dask scheduler`"),
        (address, f"no scheduler answers at {address} within 1 s"),
        ("carrier-pigeon://roof", "no scheduler answers at carrier-pigeon://roof"),
        (str(tmp_path / "file"), f"no address of a scheduler is in {tmp_path}/file after 1 s .*No such file"),
    ):
        with pytest.raises(UserError, match=line):
            list(DaskRunner(scheduler, wait=1).run(dask_cluster.no_work, [0]))


def test_a_file_without_an_address_is_one_line(tmp_path):
    file = tmp_path / "scheduler.json"
    file.write_text("[]")
    with pytest.raises(UserError, match="no address of a scheduler is in"):
        list(DaskRunner(str(file), wait=1).run(dask_cluster.no_work, [0]))


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"Dask is not installed; pip install 'rdm_jax\[dask\]'"):
        list(DaskRunner().run(dask_cluster.no_work, [0]))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"workers": -1}, "workers -1 is out of range"),
        ({"wait": 0}, "wait 0 is out of range"),
        ({"workers": 2, "scheduler": "tcp://a:1"}, "workers 2 has no effect on the scheduler tcp://a:1"),
    ],
)
def test_options_out_of_range_are_refused(options, line):
    with pytest.raises(UserError, match=line):
        DaskRunner(**options)
