"""Plots: round ticks around the data, points where they belong, panels without curves left out."""

from __future__ import annotations

import numpy as np
import pytest

from rdm_jax.evaluation.plots import COLORS, HEIGHT, WIDTH, Curve, Panel, plot, ticks


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (13, 97, [0, 20, 40, 60, 80, 100]), (5, 5, []), (0, 0, [])],
)
def test_ticks_are_round_and_hold_the_data(low, high, found):
    made = ticks(float(low), float(high))
    assert made[0] <= low and made[-1] >= high and len(made) <= 8
    assert made[-1] > made[0]
    if low < high:
        assert made == pytest.approx(found)


def test_every_curve_is_drawn_in_its_color_and_empty_panels_are_left_out():
    curves = [Curve("one", [(0.0, 1.0), (1.0, 3.0)], ["0", "5"]), Curve("two", [(0.5, 2.0)])]
    plotted = plot([Panel("a", "x", "y", curves, (2.5, "real")), Panel("b", "x", "y", [])])
    assert plotted.shape == (HEIGHT, WIDTH, 3)
    for color in COLORS[:2]:
        assert (plotted == np.array(color)).all(axis=-1).sum() > 20
    assert not (plotted == np.array(COLORS[2])).all(axis=-1).any()
    with pytest.raises(ValueError, match="no curve"):
        plot([Panel("b", "x", "y", [])])
