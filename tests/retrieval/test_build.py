"""Builds that are stopped, shared, repeated and extended, and near-duplicates."""

import contextlib
import dataclasses
import errno
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.data.selection import Selection
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval import prepare
from rdm_jax.retrieval.build import BuildOptions
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.jobs import LocalWriter
from rdm_jax.retrieval.parts import ProcessIndex, Workspace
from tests.retrieval.conftest import (
    Listed,
    RandomEncoder,
    build,
    colored,
    kept_without_duplicates,
    noise,
    numbers_of,
    same_files,
    unit,
)

OPTIONS = BuildOptions(part_size=16, thumbnail_size=12, quality=100)


class Killed(BaseException):
    pass


def kill_after(images):
    def progress(done, total):
        if done > images:
            raise Killed

    return progress


@pytest.fixture(scope="module")
def listed():
    """Returns 60 images, two of them broken."""
    return Listed(noise(60, broken=(3, 40)))


@pytest.fixture(scope="module")
def expected(listed, encoder, tmp_path_factory):
    """Returns the folder of an uninterrupted build; tests must not change its files."""
    out = tmp_path_factory.mktemp("uninterrupted") / "db"
    build(listed, encoder, out, OPTIONS)
    return out


def state_of(folder):
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}


@pytest.mark.parametrize("stop_at", [0, 15, 16, 37, 47, 59])
def test_a_stopped_build_resumes_and_encodes_no_finished_part_again(listed, expected, tmp_path, stop_at):
    out, encoder = tmp_path / "db", RandomEncoder()
    with pytest.raises(Killed):
        build(listed, encoder, out, OPTIONS, progress=kill_after(stop_at))
    assert not out.exists()
    encoder.calls = 0
    counts = []
    report = build(listed, encoder, out, OPTIONS, progress=lambda *args: counts.append(args))
    finished = stop_at // 16
    assert report.resumed == 16 * finished and encoder.calls == 4 - finished  # one batch per part
    assert counts[0] == (16 * finished, 60) and counts[-1] == (60, 60)
    assert report.count == 58 and report.skipped == ["listed/003.png: broken", "listed/040.png: broken"]
    assert same_files(out, expected) and [path.name for path in tmp_path.iterdir()] == ["db"]


def test_a_build_that_is_stopped_repeatedly_ends_the_same(listed, expected, tmp_path):
    out, encoder, generator = tmp_path / "db", RandomEncoder(), np.random.default_rng(0)
    for _ in range(12):
        with contextlib.suppress(Killed):
            build(listed, encoder, out, OPTIONS, progress=kill_after(int(generator.integers(0, 60))))
    build(listed, encoder, out, OPTIONS)
    assert same_files(out, expected)


@pytest.mark.parametrize("work", ["build", "append", "remove", "together"])
@pytest.mark.slow
def test_kill_9_at_any_step_loses_nothing(work, tmp_path):
    script = Path(__file__).with_name("killing.py")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), work, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert int(ran.stdout) > 10  # the number of steps


def test_a_finished_build_is_reported_and_changes_nothing(listed, expected):
    before, encoder = state_of(expected), RandomEncoder()
    for options in (OPTIONS, dataclasses.replace(OPTIONS, part_size=None)):
        report = build(listed, encoder, expected, options)
        assert report.state == "finished before" and report.count == 58 and len(report.skipped) == 2
    assert encoder.calls == 0 and state_of(expected) == before


def test_the_next_build_removes_what_a_build_that_is_killed_at_its_end_leaves(
    listed, expected, encoder, tmp_path, monkeypatch
):
    def killed(self):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Workspace, "remove", killed)
        build(listed, encoder, tmp_path / "db", OPTIONS)
    assert build(listed, encoder, tmp_path / "db", OPTIONS).state == "finished before"
    assert [path.name for path in tmp_path.iterdir()] == ["db"] and same_files(tmp_path / "db", expected)


@pytest.mark.parametrize(
    "change",
    [
        {"limit": 59},
        {"dtype": "float32"},
        {"thumbnail_size": 16},
        {"quality": 99},
        {"license": "CC0"},
        {"selection": Selection(exclude=(("artist", "artist 1"),))},
        {"patches": prepare.Patches(1, 8, 16)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_options_are_refused_in_the_folder_of_a_build(listed, expected, encoder, tmp_path, change):
    other = dataclasses.replace(OPTIONS, **change)
    with pytest.raises(UserError, match=r"db exists already and was not built from these images and options"):
        build(listed, encoder, expected, other)
    with pytest.raises(Killed):
        build(listed, encoder, tmp_path / "db", OPTIONS, progress=kill_after(20))
    with pytest.raises(UserError, match=r"holds an unfinished run with another \w+.*; remove it or choose another"):
        build(listed, encoder, tmp_path / "db", other)
    build(listed, encoder, tmp_path / "db", OPTIONS)
    assert same_files(tmp_path / "db", expected)


def test_other_images_and_encoders_are_refused_in_the_folder_of_a_build(listed, expected, encoder, tmp_path):
    for source, other in ((Listed(noise(60, seed=1)), encoder), (listed, RandomEncoder("other", 1))):
        with pytest.raises(UserError, match="exists already and was not built from these images"):
            build(source, other, expected, OPTIONS)


def test_other_options_are_refused_while_a_build_begins(listed, expected, encoder, tmp_path):
    refused = []

    def progress(done, total):
        if done == 3:
            with pytest.raises(UserError, match="holds an unfinished run with another dtype") as error:
                build(listed, encoder, tmp_path / "db", dataclasses.replace(OPTIONS, dtype="float32"))
            refused.append(error)
        if done > 20:
            raise Killed

    with pytest.raises(Killed):
        build(listed, encoder, tmp_path / "db", OPTIONS, progress=progress)
    build(listed, encoder, tmp_path / "db", OPTIONS)
    assert refused and same_files(tmp_path / "db", expected)


def test_a_failure_before_the_first_part_leaves_no_folder(listed, encoder, tmp_path):
    for options in (OPTIONS, dataclasses.replace(OPTIONS, dtype="float32")):
        with pytest.raises(Killed):
            build(listed, encoder, tmp_path / "db", options, progress=kill_after(5))
        assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_refused_and_the_first_continues(listed, expected, encoder, tmp_path):
    refused = []

    def progress(done, total):
        if done == 20:
            with pytest.raises(UserError, match=r"another process is writing to .*\.db\.partial; wait for it"):
                build(listed, encoder, tmp_path / "db", OPTIONS)
            refused.append(done)

    build(listed, encoder, tmp_path / "db", OPTIONS, progress=progress)
    assert refused == [20] and same_files(tmp_path / "db", expected)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_processes_that_share_a_build_end_the_same_as_one_process(listed, expected, tmp_path, order):
    encoders = [RandomEncoder() for _ in order]
    reports = [
        build(listed, encoder, tmp_path / "db", OPTIONS, process=ProcessIndex(index, 3))
        for index, encoder in zip(order, encoders, strict=True)
    ]
    assert [report.state for report in reports] == ["parts missing", "parts missing", "built"]
    assert sum(encoder.calls for encoder in encoders) == 4 and same_files(tmp_path / "db", expected)
    assert [path.name for path in tmp_path.iterdir()] == ["db"]


def test_one_of_two_processes_that_end_at_the_same_time_finishes_the_build(
    listed, expected, encoder, tmp_path, monkeypatch
):
    build(listed, encoder, tmp_path / "db", OPTIONS, process=ProcessIndex(1, 2))
    finishing, states = Workspace.finishing, []

    def late(self):
        monkeypatch.setattr(Workspace, "finishing", finishing)
        states.append(build(listed, encoder, tmp_path / "db", OPTIONS, process=ProcessIndex(1, 2)).state)
        return finishing(self)

    monkeypatch.setattr(Workspace, "finishing", late)
    states.append(build(listed, encoder, tmp_path / "db", OPTIONS, process=ProcessIndex(0, 2)).state)
    assert states == ["built", "finished before"] and same_files(tmp_path / "db", expected)
    assert [path.name for path in tmp_path.iterdir()] == ["db"]


def test_bad_input_of_one_process_keeps_the_parts_of_the_others(listed, expected, encoder, tmp_path):
    refused = []

    def progress(done, total):
        if done == 3:
            with pytest.raises(UserError, match=r"cannot be read, at most 0.0%"):
                build(listed, encoder, tmp_path / "db", OPTIONS, process=ProcessIndex(2, 3), max_skip=0.0)
            refused.append(done)

    build(listed, encoder, tmp_path / "db", OPTIONS, process=ProcessIndex(0, 3), progress=progress)
    for index in (1, 2):
        build(listed, encoder, tmp_path / "db", OPTIONS, process=ProcessIndex(index, 3))
    assert refused == [3] and same_files(tmp_path / "db", expected)


def test_the_broken_images_of_all_processes_count(encoder, tmp_path):
    source = Listed(noise(32, broken=(3, 20)))

    def progress(done, total):
        if done == 5:  # the other process does not know the image that is broken here
            build(source, encoder, tmp_path / "db", OPTIONS, process=ProcessIndex(1, 2), max_skip=0.05)

    with pytest.raises(UserError, match=r"2 of the first 32 images of listed cannot be read, at most 5.0%"):
        build(source, encoder, tmp_path / "db", OPTIONS, process=ProcessIndex(0, 2), max_skip=0.05, progress=progress)
    assert build(source, encoder, tmp_path / "db", OPTIONS, max_skip=0.1).count == 30


@pytest.mark.parametrize("part_size", [1, 7, 60, None])
@pytest.mark.parametrize("workers", [0, 2])
def test_rows_do_not_depend_on_parts_and_workers(listed, expected, encoder, tmp_path, part_size, workers):
    out = tmp_path / "db"
    build(listed, encoder, out, dataclasses.replace(OPTIONS, part_size=part_size), writer=LocalWriter(workers))
    same_rows(Database.open(out), Database.open(expected))


def same_rows(one, other):
    ids = range(len(other))
    np.testing.assert_array_equal(np.asarray(one.rows), np.asarray(other.rows))
    assert one.items(ids) == other.items(ids)
    np.testing.assert_array_equal(one.thumbnails(ids), other.thumbnails(ids))


def test_worker_processes_make_the_same_database(images, encoder, tmp_path, monkeypatch):
    source, options = open_source(str(images)), BuildOptions(limit=70, part_size=40, patches=prepare.Patches(2, 8, 16))
    build(source, encoder, tmp_path / "threads", options, writer=LocalWriter(2))
    monkeypatch.setattr(prepare, "PROCESSES_FROM", 1)
    build(source, encoder, tmp_path / "processes", dataclasses.replace(options, name="threads"), writer=LocalWriter(2))
    assert same_files(tmp_path / "processes", tmp_path / "threads")


def test_a_number_of_workers_below_0_is_refused(listed, encoder, tmp_path):
    with pytest.raises(UserError, match="workers -1 is out of range"):
        build(listed, encoder, tmp_path / "db", OPTIONS, writer=LocalWriter(-1))


# Appending.


@pytest.fixture(scope="module")
def more():
    return Listed(noise(20, seed=9, broken=(0,)), "more")


@pytest.fixture
def copy(expected, tmp_path):
    """Returns the folder of a copy that a test may change."""
    import shutil

    return Path(shutil.copytree(expected, tmp_path / "db"))


def test_append_adds_new_rows_after_the_old_ones(copy, expected, more, encoder, tmp_path):
    report = build(more, encoder, copy, OPTIONS, append=True)
    build(more, encoder, tmp_path / "more", OPTIONS)
    old, new, appended = (Database.open(path) for path in (expected, tmp_path / "more", copy))
    assert report.count == len(appended) == 58 + 19 and appended.name == old.name
    np.testing.assert_array_equal(
        np.asarray(appended.rows), np.concatenate([np.asarray(old.rows), np.asarray(new.rows)])
    )
    items = [{**item, "row": None} for item in appended.items(range(77))]
    assert items == [{**item, "row": None} for one in (old, new) for item in one.items(range(len(one)))]
    np.testing.assert_array_equal(appended.thumbnails(range(58, 77)), new.thumbnails(range(19)))
    assert [source["name"] for source in appended.manifest["sources"]] == ["listed", "more"]
    assert [event["action"] for event in appended.manifest["history"]] == ["build", "append"]
    assert len(appended.skipped()) == 3 and appended.manifest["created"] == old.manifest["created"]
    appended.verify()


def test_the_same_append_again_changes_nothing(copy, more, encoder):
    build(more, encoder, copy, OPTIONS, append=True)
    before, other = state_of(copy), RandomEncoder()
    assert build(more, other, copy, OPTIONS, append=True).state == "finished before"
    assert state_of(copy) == before and other.calls == 0


def test_append_without_a_database_builds_one(listed, expected, encoder, tmp_path):
    build(listed, encoder, tmp_path / "db", OPTIONS, append=True)
    assert same_files(tmp_path / "db", expected)


def test_another_encoder_cannot_append(copy, expected, more):
    with pytest.raises(UserError, match=r"was made by encoder 'random' .* and this is 'other'"):
        build(more, RandomEncoder("other", 1), copy, OPTIONS, append=True)
    assert same_files(copy, expected)


@pytest.mark.parametrize("stop_at", [0, 17])
def test_a_killed_append_leaves_the_database_and_resumes(copy, expected, more, encoder, tmp_path, stop_at):
    with pytest.raises(Killed):
        build(more, encoder, copy, OPTIONS, append=True, progress=kill_after(stop_at))
    assert same_files(copy, expected)
    Database.open(copy).verify()
    assert build(more, encoder, copy, OPTIONS, append=True).resumed == 16 * (stop_at // 16)
    assert len(Database.open(copy)) == 77


def test_an_append_that_was_killed_between_its_renames_is_not_a_new_build(copy, more, encoder, tmp_path):
    copy.rename(tmp_path / ".db.replaced")  # the state between the two renames
    assert build(more, encoder, copy, OPTIONS, append=True).count == 77
    assert [path.name for path in tmp_path.iterdir()] == ["db"]


def test_a_database_that_changes_while_another_appends_is_kept(copy, more, encoder):
    third = Listed(noise(4, seed=4), "third")

    def progress(done, total):
        if done == 20:
            (copy.parent / ".db.partial").rename(copy.parent / "aside")
            build(third, encoder, copy, OPTIONS, append=True)
            (copy.parent / "aside").rename(copy.parent / ".db.partial")

    with pytest.raises(UserError, match="was changed by another process meanwhile; run the same command again"):
        build(more, encoder, copy, OPTIONS, append=True, progress=progress)
    assert len(Database.open(copy)) == 62
    assert build(more, encoder, copy, OPTIONS, append=True).resumed == 20
    assert len(Database.open(copy)) == 81


# Near-duplicates.


def with_copies(count, seed=0):
    """Returns images that include exact and slightly changed copies of others."""
    generator = np.random.default_rng(seed)
    images = noise(count, seed)
    for i in range(1, count):
        if generator.random() < 0.5:
            change = generator.integers(-4, 5, images[0].shape) * generator.integers(0, 2)
            images[i] = np.clip(images[generator.integers(0, i)].astype(int) + change, 0, 255).astype(np.uint8)
    return images


@pytest.mark.parametrize("threshold", [0.5, 0.99, 0.9999, 1.0])
def test_near_duplicates_are_omitted_and_the_first_is_kept(encoder, tmp_path, threshold):
    source = Listed(with_copies(150))
    options = dataclasses.replace(OPTIONS, dtype="float32", duplicates=threshold)
    report = build(source, encoder, tmp_path / "db", options)
    rows = encoder.encode_images(source.images)
    kept = kept_without_duplicates(rows, min(threshold, 1 - 1e-6))
    database = Database.open(tmp_path / "db")
    np.testing.assert_array_equal(np.asarray(database.rows), rows[kept])
    assert [item["path"] for item in database.items(range(len(kept)))] == [f"listed/{i:03d}.png" for i in kept]
    np.testing.assert_array_equal(database.thumbnails(range(len(kept))), np.stack([source.images[i] for i in kept]))
    assert report.duplicates == 150 - len(kept) > 20
    assert database.manifest["history"][-1]["dropped"] == report.duplicates
    if threshold == 1.0:
        assert len(kept) == len({image.tobytes() for image in source.images})


def test_many_copies_of_an_image_are_one_row(encoder, tmp_path):
    source = Listed(noise(3) + noise(1) * 120)
    assert build(source, encoder, tmp_path / "db", dataclasses.replace(OPTIONS, duplicates=0.97)).count == 3


def test_near_duplicates_of_existing_rows_are_not_appended(encoder, tmp_path):
    images = with_copies(150, seed=5)
    options = dataclasses.replace(OPTIONS, dtype="float32", duplicates=0.99)
    build(Listed(images[:90]), encoder, tmp_path / "db", options)
    build(
        Listed(images[90:], "more"),
        encoder,
        tmp_path / "db",
        options,
        append=True,
    )
    rows = encoder.encode_images(images)
    np.testing.assert_array_equal(
        np.asarray(Database.open(tmp_path / "db").rows), rows[kept_without_duplicates(rows, 0.99)]
    )


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01, float("nan")])
def test_a_threshold_that_is_not_a_cosine_is_refused(listed, encoder, tmp_path, threshold):
    with pytest.raises(UserError, match=r"duplicates .* is not a cosine in \(0, 1\]"):
        build(listed, encoder, tmp_path / "db", dataclasses.replace(OPTIONS, duplicates=threshold))
    assert not any(tmp_path.iterdir())


# Exclusions.


def test_exclusions_are_honored_and_recorded(encoder, tmp_path):
    source = Listed(colored(range(40)))
    build(source, encoder, tmp_path / "all", OPTIONS)
    items = Database.open(tmp_path / "all").items(range(40))
    terms = (
        ("path", "listed/007.png"),
        ("artist", "artist 2"),
        ("sha256", items[10]["sha256"]),
        ("id", items[11]["id"]),
        ("caption", "listed no. 13"),
    )
    options = dataclasses.replace(OPTIONS, selection=Selection(exclude=terms))
    build(source, encoder, tmp_path / "db", options)
    database = Database.open(tmp_path / "db")
    expected = [i for i in range(40) if i % 5 != 2 and i not in (7, 10, 11, 13)]
    assert numbers_of(database.thumbnails(range(len(database)))) == expected
    assert database.manifest["sources"][0]["selection"] == {"where": [], "exclude": [list(term) for term in terms]}
    folder = dataclasses.replace(OPTIONS, selection=Selection(exclude=(("path", "listed/"),)))
    with pytest.raises(UserError, match="no images of listed are left"):
        build(source, encoder, tmp_path / "none", folder)


def test_a_folder_is_excluded(images, encoder, tmp_path):
    options = BuildOptions(selection=Selection(exclude=(("path", "cats/"),)), limit=10)
    build(open_source(str(images)), encoder, tmp_path / "db", options)
    assert all(item["path"].startswith("dogs/") for item in Database.open(tmp_path / "db").items(range(10)))


def test_images_are_selected_by_hash_and_id(encoder, tmp_path):
    source = Listed(colored(range(12)))
    build(source, encoder, tmp_path / "all", OPTIONS)
    item = Database.open(tmp_path / "all").items([8])[0]
    for key in ("sha256", "id"):
        options = dataclasses.replace(OPTIONS, selection=Selection(where=((key, item[key]),)))
        build(source, encoder, tmp_path / key, options)
        assert numbers_of(Database.open(tmp_path / key).thumbnails([0])) == [8]


# Disks.


@pytest.mark.parametrize("limit", [500, 2000, 4000])
def test_a_full_disk_is_one_clear_error(listed, expected, encoder, tmp_path, limit):
    """The operating system limits the size of files: of the rows, the items, or the thumbnails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(
        UserError, match=r"cannot write to .*; make room there, and run the same command again"
    ) as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            build(listed, encoder, tmp_path / "db", OPTIONS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value) and not (tmp_path / "db").exists()
    build(listed, encoder, tmp_path / "db", OPTIONS)
    assert same_files(tmp_path / "db", expected)


@pytest.mark.parametrize("name", ["embeddings-00002", "items-00002", "thumbnails-00002", "part-00002", "manifest.json"])
def test_a_disk_that_fills_up_keeps_the_parts_before_it(listed, expected, tmp_path, monkeypatch, name):
    replaced = files.replaced

    @contextlib.contextmanager
    def full(path, **options):
        with replaced(path, **options) as temporary:
            yield temporary
            if path.name.startswith(name):
                raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left on device; make room there"):
        patch.setattr(files, "replaced", full)
        build(listed, RandomEncoder(), tmp_path / "db", OPTIONS)
    encoder = RandomEncoder()
    report = build(listed, encoder, tmp_path / "db", OPTIONS)
    assert (report.resumed, encoder.calls) == ((60, 0) if name == "manifest.json" else (32, 2))
    assert same_files(tmp_path / "db", expected) and [path.name for path in tmp_path.iterdir()] == ["db"]


def test_a_damaged_run_is_named(listed, encoder, tmp_path):
    with pytest.raises(Killed):
        build(listed, encoder, tmp_path / "db", OPTIONS, progress=kill_after(20))
    plan = tmp_path / ".db.partial" / "plan.json"
    text = plan.read_text()
    for damage in (lambda: plan.write_text("{"), plan.unlink):
        damage()
        with pytest.raises(UserError, match=r"\.db\.partial holds a damaged run .*; remove it"):
            build(listed, encoder, tmp_path / "db", OPTIONS)
    plan.write_text(text)
    assert build(listed, encoder, tmp_path / "db", OPTIONS).resumed == 16


def test_manifests_do_not_name_paths_on_this_machine(expected, tmp_path):
    manifest = json.loads((expected / "manifest.json").read_text())
    assert manifest["sources"][0]["rows"] == manifest["count"] == 58
    assert str(tmp_path.parent) not in json.dumps(manifest)


def test_rows_are_those_of_the_encoder(expected, listed, encoder):
    good = [image for image in listed.images if image is not None]
    rows = np.asarray(Database.open(expected).rows)
    np.testing.assert_array_equal(rows, encoder.encode_images(good).astype(np.float16))
    np.testing.assert_allclose((unit(rows) ** 2).sum(axis=1), 1)
