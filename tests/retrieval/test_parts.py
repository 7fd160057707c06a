"""The working folder of a run in parts."""

import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.parts import ProcessIndex, Workspace, difference, discard, working_folder


def test_the_parts_of_processes_are_disjoint_and_cover_all(tmp_path):
    work = Workspace.open(tmp_path / "out", {"a": 1}, 11)
    for count in (1, 2, 3, 11, 20):
        pending = [work.pending(ProcessIndex(index, count)) for index in range(count)]
        assert sorted(number for numbers in pending for number in numbers) == list(range(11))


def test_a_part_is_complete_once_its_notes_exist(tmp_path):
    work = Workspace.open(tmp_path / "out", {}, 3)

    def fails(folder):
        (folder / "data").write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        work.write(1, fails)
    assert work.done() == [] and work.pending(ProcessIndex()) == [0, 1, 2]
    assert work.write(1, lambda folder: {"rows": 7}) == {"rows": 7}
    again = Workspace.open(tmp_path / "out", {}, 3)
    assert again.done() == [1] and again.notes(1) == {"rows": 7} and again.pending(ProcessIndex(0, 2)) == [0, 2]


def test_clearing_keeps_the_parts(tmp_path):
    work = Workspace.open(tmp_path / "out", {}, 1)
    work.write(0, lambda folder: (folder / "data").write_text("whole"))
    for leftover in (".lock-1-of-2", ".data.x7ak"):
        (work.folder / leftover).write_text("")
    work.clear()
    assert [path.name for path in work.folder.iterdir()] == ["data"]


def test_the_parts_of_a_process_are_locked_until_it_ends_or_is_killed(tmp_path):
    work = Workspace.open(tmp_path / "out", {}, 2)
    (work.folder / ".lock-0-of-1").write_text("")  # left by a killed process
    with work.locked(ProcessIndex()):
        with pytest.raises(UserError, match="another process is writing to"), work.locked(ProcessIndex()):
            pass
        with work.locked(ProcessIndex(1, 2)):
            pass
    with work.locked(ProcessIndex()):
        pass


def test_a_folder_that_another_process_removed_is_not_used(tmp_path):
    work = Workspace.open(tmp_path / "out", {}, 2)
    other = Workspace.open(tmp_path / "out", {}, 2)
    with pytest.raises(UserError, match="bad input"), other.locked(ProcessIndex(1, 2)):
        raise UserError("bad input")
    work.folder.mkdir()
    with pytest.raises(UserError, match="was removed by another process meanwhile"), work.locked(ProcessIndex(0, 2)):
        pass


def test_differences_are_named():
    assert difference({"a": 1, "part_size": 2}, {"a": 1, "part_size": 2}) == ""
    assert difference({"a": 1}, {"a": 2, "part_size": 2}) == "a, part size"


def test_only_parts_with_the_same_record_are_discarded(tmp_path):
    out = tmp_path / "out"
    discard(out, {"a": 1})
    Workspace.open(out, {"a": 1}, 1)
    discard(out, {"a": 2})
    assert working_folder(out).is_dir()
    discard(out, {"a": 1})
    assert not working_folder(out).exists()


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "a/b", "-1/2", "1/2/3", "0.5/2"])
def test_a_text_that_is_not_a_process_index_is_refused(text):
    with pytest.raises(UserError, match="is not I/N, as in 0/4"):
        ProcessIndex.parse(text)


@pytest.mark.parametrize("text", ["2/2", "0/0"])
def test_a_process_index_out_of_range_is_refused(text):
    with pytest.raises(UserError, match="is out of range"):
        ProcessIndex.parse(text)
    assert ProcessIndex.parse("2/8") == ProcessIndex(2, 8)
