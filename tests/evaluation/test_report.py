import itertools

import numpy as np
import pytest

from rdm_jax.evaluation import report
from rdm_jax.evaluation.arms import ARMS
from rdm_jax.evaluation.style_swap import Sizes, measure

SIZES = Sizes(first=122, least=24, real=144, reconstructed=24)


@pytest.fixture
def measured(fakes):
    cell_generator = fakes.cell_generator(
        lambda _, labels: {**labels, "style": "neon"} if labels["subject"] == "cat" else labels
    )
    return measure(cell_generator, lambda images: images, fakes.classifier, SIZES, lambda *_: None)


def test_tables_have_a_row_for_every_arm(measured):
    results, _ = measured
    text, markdown = report.screen(results), report.markdown(results, "Style swap of a fake")
    for arm in ARMS:
        assert arm.title in text and f"| {arm.title} |" in markdown
    assert "[below 97]" in text and "[chance 8.3]" in text
    assert markdown.startswith("# Style swap of a fake\n")
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    for line, after in itertools.pairwise(lines):
        if set(after) == {"|", "-", " "}:
            assert line.count("|") == after.count("|")


def test_what_is_below_target_is_named(measured):
    results, _ = measured
    missed = report.targets_missed(results)
    assert any(line.startswith("A: neutral prompt, the style's database: style 9") for line in missed)
    assert not any("subject" in line for line in missed)


def test_a_proportion_has_its_interval():
    assert report.with_interval({"rate": 0.97, "low": 0.9572, "high": 0.9788}) == "97.0 (95.7-97.9)"
    assert report.with_interval({"rate": None, "low": 0.0, "high": 1.0}) == "-"


def test_the_grid_has_every_pair_once(measured):
    _, classified = measured
    images = [one.generated.images for one in classified.values()]
    sheet = report.grid(classified.values(), zoom=1)
    assert sheet.dtype == np.uint8 and sheet.shape[0] > 12 * 8 and sheet.shape[1] > 12 * 8
    first = images[0][0]
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (8, 8, 3))[:, :, 0]
    assert (windows == first).all(axis=(2, 3, 4)).sum() == 1


def test_no_grid_without_a_styles_database(measured):
    _, classified = measured
    assert report.grid([classified["control_no_style"], classified["control_random_neighbors"]]) is None
