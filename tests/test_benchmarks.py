"""benchmarks/sampling.py measures everything that there is, and its small calculations are right."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rdm_jax import conditioning, guidance
from rdm_jax.diffusion.samplers import SAMPLERS

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_path(monkeypatch) -> None:
    """Imports work as in a script of that folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def job(tmp_path) -> Any:
    """A job without a model."""
    config = {"noised_classifier": {"classes": {"colour": ["red", "blue"]}}, "sampling": {"width": 64}}
    databases = [SimpleNamespace(databases=[SimpleNamespace(name=name)]) for name in ("neon", "poster")]
    return SimpleNamespace(
        steps=50,
        folder=tmp_path,
        file=lambda name: f"{name}.png",
        generator=SimpleNamespace(bundle=SimpleNamespace(config=config)),
        retriever=databases[0],
        other=databases[1],
    )


def test_every_sampler_guide_and_conditioner_is_measured(job) -> None:
    from sampling_tables.cases import CASES

    cases = {name: list(make(job)) for name, make in CASES.items()}
    assert {case.options.get("sampler", "ddim") for case in cases["samplers"]} == set(SAMPLERS)
    for name, table in (("guides", guidance.GUIDES), ("conditions", conditioning.CONDITIONERS)):
        measured = {type(value) for case in cases[name] for value in case.options.get(name, ())}
        assert measured == set(table.values())


def test_every_network_of_a_guide_is_measured_alone(job) -> None:
    from sampling_tables.cases import CASES
    from sampling_tables.networks import OTHERS

    assert {name for case in CASES["guides"](job) for name in case.networks} == set(OTHERS)


def test_every_form_of_input_changes(job) -> None:
    from sampling_tables.compilations import changes

    table = list(changes(job))
    changed = [what.rpartition(": ")[2] for what, before, after in table if before != after]
    assert len(changed) == len(table)
    assert {"weight", "prompt", "mask", "reference", "database", "seed"} <= set(changed)


def test_each_round_starts_with_another_program() -> None:
    from rounds import interleave, paired

    order: list[str] = []
    times = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [len(seconds) for seconds in times.values()] == [3, 3]
    assert paired([2.0, 9.0, 4.0], [1.0, 3.0, 2.0]) == 2.0


def test_distances_and_the_fewest_steps() -> None:
    from sampling_tables.quality import distance, fewest_steps

    reference = np.ones((3, 2, 2, 1))
    assert distance(1.1 * reference, reference) == pytest.approx(0.1)
    assert fewest_steps({10: 0.5, 15: 0.2, 20: 0.1}, 0.2) == 15
    assert fewest_steps({10: 0.5}, 0.2) is None
