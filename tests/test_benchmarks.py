"""What benchmarks/sampling.py measures is all that there is, and its small calculations."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rdm_jax import conditioning, guidance
from rdm_jax.core.calls import parse_call
from rdm_jax.diffusion.samplers import SAMPLERS

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch) -> None:
    """Imports are those of a program in that folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def job(tmp_path) -> Any:
    """A job of which no model is needed."""
    config = {"noised_classifier": {"classes": {"colour": ["red", "blue"]}}, "sampling": {"width": 64}}
    database = SimpleNamespace(databases=[SimpleNamespace(name="neon")])
    return SimpleNamespace(
        steps=50,
        folder=tmp_path,
        file=lambda name: f"{name}.png",
        generator=SimpleNamespace(bundle=SimpleNamespace(config=config)),
        retriever=database,
        other=database,
    )


def test_every_sampler_guide_and_condition_is_measured(job) -> None:
    from draws.cases import KINDS

    found = {kind: list(make(job)) for kind, make in KINDS.items()}
    sampled = {case.options.get("sampler", "ddim") for case in found["samplers"]}
    assert sampled == set(SAMPLERS)
    for kind, known in (("guides", guidance.GUIDES), ("conditions", conditioning.CONDITIONERS)):
        texts = [text for case in found[kind] for text in case.options.get(kind, ())]
        assert {parse_call(text, kind).name for text in texts} == set(known)


def test_compilations_are_reported_for_every_kind_of_input(job) -> None:
    from draws.compilations import changes

    unexpected = [what.rpartition(": ")[2] for what, before, after in changes(job) if before != after]
    assert {"weight", "prompt", "mask", "reference", "database", "seed"} <= set(unexpected)


def test_programs_take_turns_in_an_order_that_turns() -> None:
    from rounds import interleave, paired

    order: list[str] = []
    times = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [len(seconds) for seconds in times.values()] == [3, 3]
    assert paired([2.0, 9.0, 4.0], [1.0, 3.0, 2.0]) == 2.0


def test_distances_and_the_fewest_steps() -> None:
    from draws.quality import as_near, distance

    reference = np.ones((3, 2, 2, 1))
    assert distance(1.1 * reference, reference) == pytest.approx(0.1)
    assert as_near({10: 0.5, 15: 0.2, 20: 0.1}, 0.2) == 15
    assert as_near({10: 0.5}, 0.2) is None
