from collections import Counter

import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.style_scenes.captions import neutral_prompt, styled_prompt
from rdm_jax.data.style_scenes.vocabulary import HELD_OUT_PAIRS, KEPT_OUT, NAMED_STYLES, NEVER_NAMED, STYLES, SUBJECTS
from rdm_jax.evaluation.arms import ARMS, FIRST, GENERAL, arms_of, cells_of, database_name


def arm(name):
    return next(arm for arm in ARMS if arm.name == name)


@pytest.mark.parametrize("name", [arm.name for arm in ARMS])
def test_cells_are_spread_evenly(name):
    wanted = cells_of(arm(name), 200)
    assert len(wanted) == 200
    pairs = Counter((cell.subject, cell.style) for cell in wanted)
    assert set(pairs) <= set(arm(name).pairs)
    assert max(pairs.values()) - min(pairs.values()) <= 1
    assert len(set(wanted)) == 200


def test_the_first_arm_is_what_was_trained_and_every_pair_has_an_arm():
    first, held_out, kept_out = (
        set(arm(name).pairs) for name in ("style_database", "held_out_pairs", "kept_out_style")
    )
    assert held_out == set(HELD_OUT_PAIRS)
    assert {style for _, style in first} == set(NAMED_STYLES) | set(NEVER_NAMED)
    assert not first & held_out and KEPT_OUT not in {style for _, style in first}
    assert first | held_out | kept_out == {(subject, style) for subject in SUBJECTS for style in STYLES}


def test_arms_of_more_styles_that_training_has_excluded():
    excluded = [KEPT_OUT, "watercolour", "stained glass"]
    arms = {arm.name: {style for _, style in arm.pairs} for arm in arms_of(excluded)}
    assert arms["kept_out_style"] == arms["kept_out_named"] == set(excluded)
    assert not any(set(excluded) & styles for name, styles in arms.items() if name not in OF_EXCLUDED)
    assert arms[FIRST] == set(STYLES) - set(excluded)
    assert set(arms) == {arm.name for arm in ARMS}
    with pytest.raises(UserError, match="unknown style 'cubism'"):
        arms_of(["cubism"])
    with pytest.raises(UserError, match="no style is left"):
        arms_of(STYLES)


OF_EXCLUDED = ("kept_out_style", "kept_out_named", "control_no_style")


def test_all_styles_of_a_prompt_start_from_the_same_noise():
    noise = {}
    for cell in cells_of(arm("style_database"), 1_000):
        noise.setdefault((cell.prompt, cell.copy), set()).add(cell.noise)
    assert all(len(found) == 1 for found in noise.values())
    assert len({next(iter(found)) for found in noise.values()}) == len(noise)


def test_the_control_without_a_style_repeats_nothing():
    wanted = cells_of(arm("control_no_style"), 400)
    assert len({(cell.prompt, cell.noise) for cell in wanted}) == 400
    assert {cell.database for cell in wanted} == {GENERAL}


def test_each_prompt_is_in_two_consecutive_rounds():
    wanted = cells_of(arm("kept_out_style"), 12 * 16)
    groups = Counter((cell.prompt, cell.style) for cell in wanted)
    assert set(groups.values()) == {2} and len(groups) == 12 * 8


def test_prompts_and_databases_are_those_of_the_arm():
    cell = cells_of(arm("style_database"), 1)[0]
    assert cell.prompt == neutral_prompt(cell.subject, cell.colour)
    assert cell.database == database_name(cell.style)
    for cell in cells_of(arm("named_general"), 50):
        assert cell.prompt == styled_prompt(cell.subject, cell.colour, cell.style)
        assert cell.database == GENERAL
    assert cells_of(arm("never_named_general"), 1)[0].prompt.endswith(NEVER_NAMED[0])
    assert database_name("stained glass") == "stained-glass"
