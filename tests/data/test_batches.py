import jax
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.batches import training_batches


def read(row: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    return {"row": np.asarray(row), "noise": generator.random(2)}


def take(iterator, count):
    return [{name: np.array(value) for name, value in next(iterator).items()} for _ in range(count)]


def test_every_epoch_holds_every_row_once_in_an_order_of_its_own() -> None:
    batches = take(training_batches(read, 12, 4, seed=1), 6)
    first, second = (np.concatenate([b["row"] for b in part]) for part in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == list(range(12))
    assert list(first) != list(second)


def test_a_resumed_iterator_continues_with_the_same_records() -> None:
    straight = take(training_batches(read, 10, 3, seed=2), 6)
    iterator = training_batches(read, 10, 3, seed=2)
    take(iterator, 2)
    state = iterator.get_state()
    other = training_batches(read, 10, 3, seed=2)
    other.set_state(state)
    for expected, actual in zip(straight[2:], take(other, 4), strict=True):
        np.testing.assert_array_equal(expected["row"], actual["row"])
        np.testing.assert_array_equal(expected["noise"], actual["noise"])


def test_processes_share_out_the_same_global_batches(monkeypatch) -> None:
    whole = take(training_batches(read, 12, 4, seed=3), 3)
    parts = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for process in range(2):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        parts.append(take(training_batches(read, 12, 4, seed=3), 3))
    for i, batch in enumerate(whole):
        for name, values in batch.items():  # in the same order, so that example i has the same noise everywhere
            np.testing.assert_array_equal(values, np.concatenate([parts[0][i][name], parts[1][i][name]]))


def test_bad_sizes_are_refused(monkeypatch) -> None:
    with pytest.raises(UserError, match="no rows"):
        training_batches(read, 0, 4, seed=0)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(UserError, match="batch_size=4 does not divide by 3 processes"):
        training_batches(read, 10, 4, seed=0)


def test_what_is_read_for_a_whole_batch_is_read_once() -> None:
    seen = []

    def complete(batch):
        seen.append(len(batch["row"]))
        return {**batch, "double": 2 * batch["row"]}

    for batch in take(training_batches(read, 12, 4, seed=1, threads=1, complete=complete), 3):
        np.testing.assert_array_equal(batch["double"], 2 * batch["row"])
    assert set(seen) == {4}
