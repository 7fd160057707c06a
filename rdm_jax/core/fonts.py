"""The font of sheets and plots: DejaVu Sans for Latin, Greek and Cyrillic, the system's fonts for other scripts."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rdm_jax.core import paths

logger = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[1] / "assets" / "fonts" / "DejaVuSans.ttf"
# Fonts with many scripts are tried first; only so many files are opened.
PREFERRED = ("cjk", "notosans", "unicode", "fallback", "arial", "msyh", "meiryo", "pingfang", "hiragino")
MOST_FILES = 300
SUFFIXES = (".ttf", ".ttc", ".otf")
_WARNED: list[str] = []  # the first character that no font has
MISSING = "\U0010ffff"  # no font has this character: it is drawn as each font draws what it lacks


@dataclasses.dataclass(frozen=True)
class Font:
    """A font of one height, in pixels."""

    size: int

    def width(self, text: str) -> int:
        """Returns the width of a line of text, in pixels."""
        return math.ceil(sum(_face(file, self.size).getlength(run) for file, run in _runs(text)))

    @property
    def ascent(self) -> int:
        """Returns the height above the baseline, in pixels."""
        return _face(SHIPPED, self.size).getmetrics()[0]

    @property
    def line_height(self) -> int:
        """Returns the distance between the baselines of two lines, in pixels."""
        return sum(_face(SHIPPED, self.size).getmetrics()) + 1

    def write(
        self,
        draw: ImageDraw.ImageDraw,
        corner: tuple[int | float, int | float],
        text: str,
        fill: tuple[int, int, int],
        anchor: str = "la",
    ) -> None:
        """Draws a line of text.

        Args:
          draw: to draw on.
          corner: (x, y) of the anchor.
          text: the line.
          fill: its color.
          anchor: as Pillow's: "l", "m" or "r" for the left, the middle or the right, then "a" for the top, "m" for the
            middle or "s" for the baseline.
        """
        x, y = corner
        x -= {"l": 0.0, "m": self.width(text) / 2, "r": self.width(text)}[anchor[0]]
        y += {"a": self.ascent, "m": self.ascent / 2, "s": 0.0}[anchor[1]]
        for file, run in _runs(text):
            face = _face(file, self.size)
            draw.text((x, y), run, fill=fill, font=face, anchor="ls")
            x += face.getlength(run)


def _runs(text: str) -> Iterator[tuple[Path, str]]:
    """Yields the parts of a text, each with the file of a font that has its characters."""
    for file, run in itertools.groupby(text, key=_file_of):
        yield file, "".join(run)


@functools.cache
def _file_of(character: str) -> Path:
    """Returns the file of the first font that has a character, the shipped one where none has it."""
    if _has(SHIPPED, character) or not character.isprintable():
        return SHIPPED
    found = next((file for file in _system_files() if _has(file, character)), None)
    if found is None:
        _warn(character)
    return found or SHIPPED


def _warn(character: str) -> None:
    """Warns once: a text in another script has many such characters."""
    if not _WARNED:
        _WARNED.append(character)
        logger.warning("no font of this machine has %r: a box stands for it; install a font of its script", character)


def _has(file: Path, character: str) -> bool:
    """Says whether a font has a character: it is not drawn as one that no font has."""
    try:
        face = _face(file, 16)
        return character.isspace() or _drawn(face, character) != _drawn(face, MISSING)
    except (OSError, ValueError):
        return False


def _drawn(face: ImageFont.FreeTypeFont, character: str) -> bytes:
    image = Image.new("L", (32, 32))
    ImageDraw.Draw(image).text((4, 24), character, fill=255, font=face, anchor="ls")
    return image.tobytes()


@functools.cache
def _face(file: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _system_files() -> tuple[Path, ...]:
    """Returns the font files of this machine, those with many scripts first."""
    files = [file for folder in _folders() for file in _below(folder) if file.suffix.lower() in SUFFIXES]
    return tuple(sorted(files, key=lambda file: (not _is_preferred(file), file.name))[:MOST_FILES])


def _is_preferred(file: Path) -> bool:
    return any(name in file.name.lower().replace("-", "") for name in PREFERRED)


def _below(folder: Path) -> Iterator[Path]:
    for top, _, names in os.walk(folder):
        yield from (Path(top, name) for name in names)


def _folders() -> list[Path]:
    """Returns where this system keeps its fonts."""
    home = paths.local("~")
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    if sys.platform == "win32":
        return [Path(os.environ.get("WINDIR", "C:/Windows"), "Fonts")]
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    return [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), data / "fonts", home / ".fonts"]
