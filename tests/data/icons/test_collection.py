from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.icons.attribution import attribution
from rdm_jax.data.icons.collection import Icon, caption_of, read, sets
from rdm_jax.data.icons.groups import group_of
from rdm_jax.data.icons.held_out import HELD_OUT
from rdm_jax.data.icons.licenses import is_allowed
from tests.helpers.icon_archive import SQUARE, info, write_archive


def _icons(*names: str, **more: str) -> dict[str, dict[str, str]]:
    return {name: {"body": SQUARE, **more} for name in names}


def _read(folder: Path, infos: dict, contents: dict, smallest_style: int = 1) -> list[Icon]:
    return read(write_archive(folder / "icons.tgz", infos, contents), smallest_style)


@pytest.mark.parametrize(
    "spdx", ["MIT", "Apache-2.0", "ISC", "CC0-1.0", "OFL-1.1", "MPL-2.0", "CC-BY-3.0", "CC-BY-4.0"]
)
def test_permissive_licenses_are_used(spdx: str):
    assert is_allowed(info(spdx=spdx))


@pytest.mark.parametrize("spdx", ["CC-BY-SA-4.0", "CC-BY-NC-4.0", "GPL-3.0-or-later", "GPL-2.0", "unheard of"])
def test_other_licenses_are_not_used(spdx: str):
    assert not is_allowed(info(spdx=spdx))


def test_a_set_without_license_is_not_used():
    assert not is_allowed({"name": "A set", "license": {}})


@pytest.mark.parametrize("more", [{"category": "Logos"}, {"category": "Flags / Maps"}, {"category": "Programming"}])
def test_sets_of_trademarks_and_flags_are_not_used(more: dict):
    assert not is_allowed(info(**more))


@pytest.mark.parametrize("name", ["Font Awesome Brands", "Country flags"])
def test_sets_named_after_trademarks_and_flags_are_not_used(name: str):
    assert not is_allowed(info(name))


@pytest.mark.parametrize(
    ("stem", "caption"), [("alarm-clock-off", "alarm clock off"), ("arrow-2-up-24", "arrow up"), ("3d-box", "3d box")]
)
def test_captions(stem: str, caption: str):
    assert caption_of(stem) == caption


def test_an_affix_is_part_of_the_style_not_of_the_caption(tmp_path: Path):
    content = {
        "icons": _icons("home", "home-sharp", "home-outline-sharp", "sharp"),
        "suffixes": {"": "Regular", "sharp": "Sharp", "outline-sharp": "Outline Sharp"},
    }
    labels = {icon.name: (icon.style, icon.caption) for icon in _read(tmp_path, {"m": info()}, {"m": content})}
    assert labels == {
        "home": ("m", "home"),
        "home-sharp": ("m-sharp", "home"),
        "home-outline-sharp": ("m-outline-sharp", "home"),
        "sharp": ("m", "sharp"),
    }


def test_a_prefix_is_an_affix_too(tmp_path: Path):
    content = {"icons": _icons("twotone-home", "twotone"), "prefixes": {"twotone": "Two-Tone"}}
    labels = {icon.name: (icon.style, icon.caption) for icon in _read(tmp_path, {"ic": info()}, {"ic": content})}
    assert labels == {"twotone-home": ("ic-twotone", "home"), "twotone": ("ic", "twotone")}


def test_a_variant_and_a_set_of_the_same_name_are_two_styles(tmp_path: Path):
    contents = {
        "h": {"icons": _icons("home-solid"), "suffixes": {"solid": "Solid"}},
        "h-solid": {"icons": _icons("home")},
    }
    icons = _read(tmp_path, {prefix: info() for prefix in contents}, contents)
    assert [icon.style for icon in icons] == ["h/solid", "h-solid"]


def test_hidden_animated_and_nameless_icons_are_left_out(tmp_path: Path):
    drawn_in_time = {"body": f'{SQUARE}<animate fill="freeze" attributeName="x" values="1;2"/>'}
    icons: dict[str, Any] = {**_icons("home", "24"), **_icons("old", hidden=True), "late": drawn_in_time}
    assert [icon.name for icon in _read(tmp_path, {"s": info()}, {"s": {"icons": icons}})] == ["home"]


def test_small_styles_are_left_out(tmp_path: Path):
    content = {"icons": _icons("a", "b", "c", "a-bold", "b-bold"), "suffixes": {"bold": "Bold"}}
    assert {icon.style for icon in _read(tmp_path, {"s": info()}, {"s": content}, smallest_style=3)} == {"s"}


def test_the_view_box_is_the_icons_or_else_the_sets(tmp_path: Path):
    wide = {"body": SQUARE, "width": 30, "left": -3}
    content = {"icons": {"a": wide, "b": {"body": SQUARE}}, "height": 24}
    icons = _read(tmp_path, {"s": info()}, {"s": content})
    assert [icon.view_box for icon in icons] == [(-3.0, 0.0, 30.0, 24.0), (0.0, 0.0, 16.0, 24.0)]


def test_the_order_of_the_archive_does_not_matter(tmp_path: Path):
    contents = {"s": {"icons": _icons("b", "a")}, "r": {"icons": _icons("c")}}
    infos = {prefix: info() for prefix in contents}
    assert [icon.id for icon in _read(tmp_path, infos, contents)] == ["r:c", "s:a", "s:b"]
    backwards = dict(reversed(contents.items()))
    assert _read(tmp_path, infos, contents) == _read(tmp_path, infos, backwards)


def test_splits(tmp_path: Path):
    contents = {
        "solar": {"icons": _icons("home-broken", "home-bold"), "suffixes": {"broken": "Broken", "bold": "Bold"}},
        "ph": {"icons": _icons("home", "pizza-slice", "pizzas")},
        "fluent-emoji-flat": {"icons": _icons("pizza")},
    }
    splits = {icon.id: icon.split for icon in _read(tmp_path, {prefix: info() for prefix in contents}, contents)}
    assert splits == {
        "solar:home-broken": "held_out",
        "solar:home-bold": "train",
        "ph:home": "train",
        "ph:pizza-slice": "unseen",
        "ph:pizzas": "train",
        "fluent-emoji-flat:pizza": "held_out",
    }


def test_every_twin_names_a_style_that_is_held_out_itself():
    originals = {reason.partition("twin of ")[2].partition(":")[0] for reason in HELD_OUT.values()} - {""}
    assert originals
    assert not any(HELD_OUT[original].startswith("twin") for original in originals)


def test_groups():
    assert group_of("material-symbols-light") == group_of("ic")
    assert group_of("ph") == "ph"


def test_the_attribution_names_each_set_once_with_its_count(tmp_path: Path):
    contents = {"s": {"icons": _icons("a", "b")}, "r": {"icons": _icons("c")}}
    icons = _read(tmp_path, {"s": info("S | T", "CC-BY-4.0"), "r": info("R", palette=True)}, contents)
    assert [(source.prefix, source.one_color, count) for source, count in sets(icons)] == [
        ("r", False, 1),
        ("s", True, 2),
    ]
    rows = attribution(icons).strip().split("\n")[-2:]
    assert rows[1] == (
        r"| S \| T (`s`) | 2 | [Author of S \| T](https://author.test) | [CC-BY-4.0](https://license.test) |"
    )
    assert rows[0].startswith("| R (`r`) | 1 |")


def test_a_missing_archive_is_named_with_the_command_that_gets_it(tmp_path: Path):
    with pytest.raises(UserError, match=r"npm pack @iconify/json@2\.2\.535 --pack-destination"):
        read(tmp_path / "iconify-json-2.2.535.tgz")


def test_another_archive_is_an_error_of_one_line(tmp_path: Path):
    (tmp_path / "text.tgz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="is not the npm package"):
        read(tmp_path / "text.tgz")
    with tarfile.open(tmp_path / "empty.tgz", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"no collections\.json"):
        read(tmp_path / "empty.tgz")
