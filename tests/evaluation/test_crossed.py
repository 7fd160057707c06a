"""The crossed style experiment against generators that are right, wrong, or copy."""

import dataclasses
import json

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.style_scenes.captions import neutral_prompt
from rdm_jax.data.style_scenes.vocabulary import KEPT_OUT, NAMED_STYLES, NEVER_NAMED, STYLES
from rdm_jax.evaluation import crossed
from rdm_jax.evaluation.arms import GENERAL, cells_of, database_name
from rdm_jax.evaluation.classifiers import Classification
from rdm_jax.evaluation.comparisons import ClassifiedArm
from rdm_jax.evaluation.generation import Generated
from rdm_jax.evaluation.style_swap import Sizes
from tests.evaluation.conftest import real_images, real_images_like

SIZES = Sizes(first=216, least=216, real=288, reconstructed=0)
GROUPS = {"seen": set(NAMED_STYLES), "unnamed": set(NEVER_NAMED), "unseen": {KEPT_OUT}}


@pytest.fixture
def measured(fakes, monkeypatch):
    """Measures all arms with a generator of the fakes."""
    monkeypatch.setattr("rdm_jax.evaluation.crossed.real_images", real_images)
    monkeypatch.setattr("rdm_jax.evaluation.crossed.real_images_like", real_images_like)

    def run(*arguments, **options):
        generator = fakes.cell_generator(*arguments, **options)
        return crossed.measure_crossed(generator, fakes.classifier, SIZES, lambda *_: None, crossed.crossed_arms())

    return run


def test_every_group_of_styles_has_every_way():
    arms = {arm.name: arm for arm in crossed.crossed_arms()}
    assert list(arms) == [f"{group}_{way}" for group in GROUPS for way in crossed.WAYS]
    for group, styles in GROUPS.items():
        for way in crossed.WAYS:
            cells = cells_of(arms[f"{group}_{way}"], 300)
            assert {cell.style for cell in cells} == styles
            own, named = way in ("database", "both"), way in ("name", "both")
            assert all(cell.database == (database_name(cell.style) if own else GENERAL) for cell in cells)
            neutral = [neutral_prompt(cell.subject, cell.colour) for cell in cells]
            assert all(
                cell.prompt == (f"{text}, {cell.style}" if named else text)
                for cell, text in zip(cells, neutral, strict=True)
            )


def test_wrong_styles_are_refused():
    with pytest.raises(UserError, match="unknown style 'cubism'"):
        crossed.crossed_arms(["cubism"])
    with pytest.raises(UserError, match="no style is left"):
        crossed.crossed_arms(STYLES)
    assert {arm.name.split("_")[0] for arm in crossed.crossed_arms(list(NEVER_NAMED))} == {"seen", "unseen"}


def test_a_perfect_generator_and_one_that_ignores_the_database(measured):
    perfect, classified = measured()
    assert all(arm["style"]["rate"] == arm["subject"]["rate"] == 1.0 for arm in perfect["arms"].values())
    assert all(arm["copies"]["nearer"]["rate"] < 0.2 for arm in perfect["arms"].values())
    diversity = perfect["arms"]["seen_database"]["diversity"]
    assert diversity["mean"] == pytest.approx(perfect["arms"]["seen_database"]["real_diversity"]["mean"], rel=0.1)
    assert diversity["low"] < diversity["mean"] < diversity["high"]
    json.dumps(perfect, allow_nan=False)
    rows = crossed.rows(perfect)
    assert len(rows) == 1 + len(GROUPS) * len(crossed.WAYS) and {len(row) for row in rows} == {8}
    assert all(title in crossed.markdown(perfect, "T") for title in crossed.WAYS.values())
    assert crossed.grid(classified).shape[2] == 3

    neon, _ = measured(lambda _, labels: {**labels, "style": "neon"})
    rates = {name: arm["style"]["rate"] for name, arm in neon["arms"].items()}
    assert rates["unseen_database"] == rates["unnamed_both"] == 0.0 and 0.0 < rates["seen_database"] < 0.3


def test_copies_are_detected_in_every_arm(measured):
    copying, _ = measured(copying=True)
    for arm in copying["arms"].values():
        assert arm["copies"]["median"] == pytest.approx(1.0) and arm["copies"]["nearer"]["rate"] == 1.0


def test_diversity_is_the_mean_of_the_prompts_means():
    arm = crossed.crossed_arms()[0]
    (cell,) = cells_of(arm, 1)
    cells = [dataclasses.replace(cell, prompt=prompt) for prompt in "aabbb"]
    features = np.array([[0.0], [1.0], [0.0], [3.0], [6.0]], np.float32)
    images = np.zeros((5, 2, 2, 3), np.uint8)
    classified = ClassifiedArm(arm, cells, Generated(images, [[]] * 5), Classification({}, features))
    found = crossed.arm_diversity(classified)
    assert found is not None and found.value == pytest.approx((1 + (3 + 6 + 3) / 3) / 2)
    alone = dataclasses.replace(classified, cells=[dataclasses.replace(cell, prompt=str(i)) for i in range(5)])
    assert crossed.arm_diversity(alone) is None
