"""Labels in the scripts of users: no character of Latin, Greek or Cyrillic is a box, others come from the system."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rdm_jax.core import fonts
from rdm_jax.core.fonts import Font

SCRIPTS = {
    "German": "ÄÖÜäöüßẞ",
    "French": "àâæçéèêëîïôœùûüÿ«»",
    "Polish": "ąćęłńóśźż",
    "Vietnamese": "ạảấầẩẫậắằẳẵặẹẻẽếềểễệ",
    "Greek": "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩάέήίόύώϊϋΐΰς",
    "Cyrillic": "АБВГДЕЁЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯїєґўђћџ",
    "signs": "\u2013\u2014\u2026\u201c\u201d\u2018\u2019\u201e\u2022\u20ac\xa3\xd7\xb1\xb0\u2116\u2122"
    "\u2192\u2264\u2265\u2248",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_shipped_font_has_every_character(script):
    box = fonts._drawn(fonts._face(fonts.SHIPPED, 16), fonts.MISSING)
    drawn = {character: fonts._drawn(fonts._face(fonts.SHIPPED, 16), character) for character in SCRIPTS[script]}
    assert not [character for character, image in drawn.items() if image == box]
    assert len(set(drawn.values())) > 0.8 * len(drawn)  # they are different, too


def test_the_font_is_small():
    assert fonts.SHIPPED.stat().st_size < 2**20
    assert (fonts.SHIPPED.parent / "LICENSE_DEJAVU").is_file()


def written(text, size=24, anchor="ls"):
    image = Image.new("RGB", (400, 60), (255, 255, 255))
    Font(size).write(ImageDraw.Draw(image), (10, 40), text, (0, 0, 0), anchor)
    return np.asarray(image)[..., 0]


def test_a_line_has_the_width_that_is_drawn():
    columns = np.flatnonzero((written("Größe ΔΨ Жук") < 128).any(axis=0))
    assert abs((columns.max() - 10) - Font(24).width("Größe ΔΨ Жук")) <= 3


@pytest.mark.parametrize(("anchor", "shift"), [("ls", 0.0), ("ms", 0.5), ("rs", 1.0)])
def test_anchors_move_the_line(anchor, shift):
    image = Image.new("RGB", (400, 60), (255, 255, 255))
    Font(24).write(ImageDraw.Draw(image), (200, 40), "boat", (0, 0, 0), anchor)
    first = np.flatnonzero((np.asarray(image)[..., 0] < 128).any(axis=0)).min()
    assert abs(first - (200 - shift * Font(24).width("boat"))) <= 3


@pytest.fixture
def another_system(monkeypatch, tmp_path):
    """A machine with the given fonts alone."""

    def install(*files):
        for file in files:
            shutil.copy(file, tmp_path)
        monkeypatch.setattr(fonts, "_folders", lambda: [tmp_path])
        for cached in (fonts._system_files, fonts._file_of):
            cached.cache_clear()
        fonts._WARNED.clear()
        return tmp_path

    yield install
    for cached in (fonts._system_files, fonts._file_of):
        cached.cache_clear()


def test_other_scripts_come_from_the_system(another_system):
    """The shipped font has no braille; another font of this machine stands for one that has the script."""
    system = [file for folder in fonts._folders() for file in fonts._below(folder) if file.suffix in fonts.SUFFIXES]
    having = next((file for file in system if fonts._has(file, "⠿")), None)
    if having is None:
        pytest.skip("no font of this machine has braille")
    folder = another_system(having)
    assert not fonts._has(fonts.SHIPPED, "⠿")
    assert [file for file, _ in fonts._runs("a⠿b")] == [fonts.SHIPPED, folder / having.name, fonts.SHIPPED]
    assert (written("⠿") < 128).any()


def test_a_character_that_no_font_has_is_a_box_and_is_named_once(another_system, caplog):
    (another_system() / "damaged.ttf").write_bytes(b"no font")
    assert (written("船と猫") < 128).any()
    assert caplog.text.count("no font of this machine has") == 1 and "'船'" in caplog.text
    assert all(file == fonts.SHIPPED for file, _ in fonts._runs("船と猫")) and Path(fonts.SHIPPED).is_file()
