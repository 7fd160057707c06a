"""Kills builds, appends and removals by SIGKILL at each step that changes a folder, and checks what is left.

`python killing.py WORK FOLDER` prints the number of steps. Each attempt is a process of its own, forked before any
library starts threads.
"""

import contextlib
import dataclasses
import itertools
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

# Imported once here rather than in each process.
import array_record.python.array_record_module  # noqa: F401
import filelock  # noqa: F401
import pyarrow.parquet  # noqa: F401

from rdm_jax.core.errors import UserError
from rdm_jax.data.selection import Selection
from rdm_jax.retrieval import edit
from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.jobs import DEFAULT_EXECUTION, Execution
from rdm_jax.retrieval.parts import ProcessIndex
from tests.retrieval.conftest import Listed, RandomEncoder, noise, same_files

STEPS = ("os.rename", "os.link", "os.mkdir", "os.remove", "shutil.rmtree")
OPTIONS = BuildOptions(part_size=12, thumbnail_size=12, quality=100)
OLD, NEW = Listed(noise(18, broken=(3,)), "old"), Listed(noise(8, seed=1), "new")


def build(out, process=DEFAULT_EXECUTION.process):
    job = BuildJob.of(OLD, RandomEncoder(), dataclasses.replace(OPTIONS, name="db"))
    build_database(job, out, Execution(max_skip=0.1, process=process))


def append(out):
    build_database(BuildJob.of(NEW, RandomEncoder(), OPTIONS), out, append=True)


def remove(out):
    with contextlib.suppress(UserError):  # no row is left to remove
        edit.remove(Database.open(out), Selection(where=(("artist", "artist 1"),)))


WORK = {"build": build, "append": append, "remove": remove}


def forked(work):
    """Runs a function in a process of its own and returns its exit status, -9 if it was killed."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(step, folder, work):
    """Runs a function and kills this process before step number `step` in a folder."""
    steps = itertools.count()

    def hook(event, args):
        if event in STEPS and str(folder) in str(args[0]) and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    work()


def check(name, out, expected):
    """Checks that a killed run leaves the old database or the new one, runs it again and compares."""
    if name != "build":
        database = Database.open(out)
        database.verify()
        assert same_files(out, expected) or len(database) == 17, out
    WORK[name](out)
    assert same_files(out, expected), out
    left = {path.name for path in out.parent.iterdir()} - {"db", ".db.lock", ".db.finishing"}
    assert not left or (name == "append" and left == {".db.replaced"}), left


def main(name, top):
    """Kills at every step and returns the number of steps."""
    before, expected = top / "before" / "db", top / "expected" / "db"
    assert forked(lambda: build(before)) == 0
    for step in itertools.count(-1):
        out = expected if step < 0 else top / f"{step}" / "db"
        if name != "build":
            shutil.copytree(before, out)
        status = forked(lambda out=out, step=step: kill_at(step, out.parent, lambda: WORK[name](out)))
        assert status in (0, -signal.SIGKILL), status
        assert forked(lambda out=out: check(name, out, expected)) == 0, step
        if status == 0 and step >= 0:
            return step


def together(top, processes=4, rounds=5):
    """Runs builds that several processes share and returns the number of processes."""
    expected = top / "expected" / "db"
    assert forked(lambda: build(expected)) == 0
    for number in range(rounds):
        out = top / f"{number}" / "db"
        children = []
        for index in range(processes):
            child = os.fork()
            if not child:
                os._exit(forked(lambda out=out, index=index: build(out, process=ProcessIndex(index, processes))))
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * processes
        assert forked(lambda out=out: check("build", out, expected)) == 0
        assert [path.name for path in out.parent.iterdir()] == ["db"], list(out.parent.iterdir())
    return processes * rounds


if __name__ == "__main__":
    place = Path(sys.argv[2])
    print(together(place) if sys.argv[1] == "together" else main(sys.argv[1], place))
