from __future__ import annotations

import dataclasses
from collections import Counter

from rdm_jax.data.icons.collection import Icon, IconSet
from rdm_jax.data.icons.content import content_icons


def icon(caption: str, family: str, *, one_color: bool = True) -> Icon:
    source = IconSet(family, family, "", "", "MIT", "", one_color)
    return Icon(caption, source, family, caption, (0.0, 0.0, 1.0, 1.0), "")


def many(caption: str, families: int) -> list[Icon]:
    return [icon(caption, f"family-{number}") for number in range(families)]


def test_the_number_of_icons_grows_with_the_square_root_of_the_families():
    # The places are c / n ** 2: 16, 4, 1.8, 1 for the first, 9, 2.25, 1 for the second, 4, 1 for the third.
    icons = [*many("home", 16), *many("star", 9), *many("boat", 4), *many("kiwi", 1)]
    counts = Counter(one.caption for one in content_icons(icons, 7))
    assert counts == {"home": 3, "star": 2, "boat": 1, "kiwi": 1}
    assert Counter(one.caption for one in content_icons(icons, 3)) == {"home": 1, "star": 1, "boat": 1}


def test_icons_of_a_caption_are_of_different_families_and_one_color_ones_come_first():
    colored = [icon("home", "colored", one_color=False), icon("home", "plain"), icon("home", "large")]
    icons = [*colored, icon("star", "large"), *(icon(f"word {i}", "colored", one_color=False) for i in range(5))]
    twins = [dataclasses.replace(one, name=f"{one.name} bold") for one in icons]
    found = [one for one in content_icons([*icons, *twins], 60) if one.caption == "home"]
    assert sorted(one.group for one in found) == ["colored", "large", "plain"]
    (first,) = [one for one in content_icons(icons, 1)]
    assert first.caption == "home" and first.group == "large"


def test_icons_of_lines_come_before_filled_ones_of_larger_families():
    line = dataclasses.replace(icon("home", "plain"), body='<path fill="none" stroke="currentColor" d="M0 0h9"/>')
    icons = [icon("home", "large"), line, icon("star", "large")]
    assert [one.group for one in content_icons(icons, 1)] == ["plain"]


def test_held_out_styles_have_no_content_and_the_order_is_that_of_the_icons():
    icons = [*many("home", 3), icon("home", "memory"), *many("star", 3)]
    found = content_icons(icons, 100)
    assert found == [one for one in icons if one.style != "memory"]
    assert content_icons(icons[::-1], 4) == [one for one in icons[::-1] if one in content_icons(icons, 4)]
