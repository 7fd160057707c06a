"""Boxes with a class each as context tokens (layout-to-image, https://arxiv.org/abs/2112.10752, section 4.3.1).

The layout is written in three tokens for each object, its class and two corners of its box, and two for the corners of
the crop that the image shows. Boxes are relative to the whole image, also where the image shows a crop of it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from rdm_jax.conditioning.inputs.base import PART, Given, Input, Target
from rdm_jax.core import paths, text
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.models.condition import Condition
from rdm_jax.request import Request

Box = tuple[float, float, float, float]  # left, top, width, height, relative to the whole image

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
FLAGS = ("group_of", "occluded", "depiction", "inside")  # by the bit that each one has
TOKENS_PER_OBJECT = 3
CORNERS = 2  # tokens of the crop
OPEN_IMAGES = "openimages"

_ASSETS = Path(__file__).parents[2] / "assets" / "layouts"
_COUNTS_AS = " (counts as "  # in the file, after the name of a class that has the number of another


@dataclasses.dataclass(frozen=True)
class Object:
    """One object of a layout.

    Attributes:
      number: of its class.
      box: of the object.
      flags: names in `FLAGS`.
    """

    number: int
    box: Box
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """How a layout is written as tokens.

    Attributes:
      size: the number of tokens; the last one fills the places of absent objects.
      length: the number of tokens of a layout.
      classes: what each combination of flags adds to a class's number, more than the largest number.
    """

    size: int
    length: int
    classes: int

    @property
    def most_objects(self) -> int:
        """The number of objects that a layout has room for."""
        return (self.length - CORNERS) // TOKENS_PER_OBJECT

    @property
    def side(self) -> int:
        """The number of rows, and of columns, of the grid of positions."""
        return math.isqrt(self.size)

    def tokens(self, objects: Sequence[Object], crop: Box = WHOLE) -> Int[np.ndarray, " length"]:
        """Returns the tokens of at most `most_objects` objects and of a crop."""
        rows = [token for one in objects for token in (self._class(one), *self._corners(one.box))]
        filled = TOKENS_PER_OBJECT * (self.most_objects - len(objects)) * [self.size - 1]
        return np.array([*rows, *filled, *self._corners(crop)], np.int32)

    def _class(self, one: Object) -> int:
        bits = sum(1 << bit for bit, flag in enumerate(FLAGS) if flag in one.flags)
        return one.number + self.classes * bits

    def _corners(self, box: Box) -> tuple[int, int]:
        """Returns the tokens of the upper left and the lower right corner."""
        left, top, width, height = box
        x, y = min(max(left, 0.0), 1.0), min(max(top, 0.0), 1.0)
        return self._position(x, y), self._position(x + min(width, 1.0 - x), y + min(height, 1.0 - y))

    def _position(self, x: float, y: float) -> int:
        # Python's rounding, half to even, is that of the original program.
        return round(y * (self.side - 1)) * self.side + round(x * (self.side - 1))


class Layout(Input):
    """Objects with their boxes, from a JSON file."""

    option = "layout"
    what = "a layout"
    encoded = True

    def read(self, request: Request, target: Target) -> Given:
        """Returns the tokens of the layout; raises UserError if the file is invalid."""
        objects, crop = read_layout(request.layout, class_numbers(target.settings["layout_names"]))
        words = vocabulary_of(target)
        if len(objects) > words.most_objects:
            raise UserError(
                f"layout {request.layout} has {len(objects)} objects, and model {target.bundle.name!r} takes "
                f"{words.most_objects}; leave out the smallest"
            )
        out_of_range = next((one.number for one in objects if one.number >= words.classes), None)
        if out_of_range is not None:
            raise UserError(
                f"layout {request.layout} has class {out_of_range}, and the model has classes 0 to {words.classes - 1}"
            )
        states = target.encode(words.tokens(objects, crop)[None])
        return Given(f"layout {Path(request.layout).name}", Condition(states))


def vocabulary_of(target: Target) -> Vocabulary:
    """Returns the vocabulary of a model's layouts."""
    encoder = target.bundle.config[PART]
    return Vocabulary(encoder["vocab_size"], encoder["context_length"], target.settings["layout_classes"])


def read_layout(file: str, numbers: Mapping[str, int]) -> tuple[list[Object], Box]:
    """Returns the objects and the crop of a layout's file.

    Args:
      file: JSON: {"objects": [{"class": NAME or number, "box": [left, top, width, height], and any of `FLAGS`: true}],
        "crop": box}; boxes are fractions of the whole image, and the crop is the whole image if absent.
      numbers: of the classes by their names in lower case.

    Raises:
      UserError: the file cannot be read, or a value is of another form.
    """
    content = _content(file)
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        raise UserError(f'layout {file} has no list "objects"; write {{"objects": [{{"class": ..., "box": [...]}}]}}')
    extra = next((key for key in content if key not in ("objects", "crop")), None)
    if extra is not None:
        raise unknown(f"key of layout {file}", str(extra), ("objects", "crop"))
    objects = [
        _object(one, f"object {place} of layout {file}", numbers) for place, one in enumerate(content["objects"], 1)
    ]
    return objects, _box(content.get("crop", list(WHOLE)), f"the crop of layout {file}")


def class_numbers(names: str | Sequence[str]) -> dict[str, int]:
    """Returns the numbers of classes by their names in lower case.

    Args:
      names: of the classes in the order of their numbers, or `OPEN_IMAGES` for those of its released model.
    """
    if names == OPEN_IMAGES:
        return open_images_numbers()
    return {name.lower(): number for number, name in enumerate(names)}


@functools.cache
def open_images_numbers() -> dict[str, int]:
    """Returns the numbers of the classes of Open Images, some of which count as another one."""
    lines = text.lines(text.read(_ASSETS / "openimages.tsv"))[1:]
    rows = [line.split("\t") for line in lines if line]
    return {name.partition(_COUNTS_AS)[0].lower(): int(number) for number, _, name in rows}


def _content(file: str) -> Any:
    try:
        return text.read_json(paths.local(file))
    except OSError as error:
        raise UserError(f"cannot read layout {file}: {error.strerror or error}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"layout {file} is no JSON: {error}") from error


def _object(written: Any, what: str, numbers: Mapping[str, int]) -> Object:
    if not isinstance(written, dict) or "class" not in written or "box" not in written:
        raise UserError(f'{what} has no "class" and "box"; write {{"class": "Cat", "box": [0.1, 0.2, 0.5, 0.3]}}')
    extra = next((key for key in written if key not in ("class", "box", *FLAGS)), None)
    if extra is not None:
        raise unknown(f"key of {what}", str(extra), ("class", "box", *FLAGS))
    wrong = next((flag for flag in FLAGS if not isinstance(written.get(flag, False), bool)), None)
    if wrong is not None:
        raise UserError(f"{wrong} of {what} is {written[wrong]!r}; write true or false")
    flags = tuple(flag for flag in FLAGS if written.get(flag))
    return Object(_number(written["class"], what, numbers), _box(written["box"], f"the box of {what}"), flags)


def _number(written: Any, what: str, numbers: Mapping[str, int]) -> int:
    """Returns the number of a class that is given by its name or its number."""
    if isinstance(written, str):
        if written.lower() not in numbers:
            raise unknown(f"class of {what}", written, numbers)
        return numbers[written.lower()]
    if not isinstance(written, int) or isinstance(written, bool) or written < 0:
        raise UserError(f"the class of {what} is {written!r}; give a name or a number from 0 on")
    return written


def _box(written: Any, what: str) -> Box:
    numbers = isinstance(written, list) and all(isinstance(one, int | float) for one in written)
    if not numbers or len(written) != 4 or not all(0.0 <= one <= 1.0 for one in written):
        raise UserError(f"{what} is {written!r}; give [left, top, width, height] as fractions of the image, 0 to 1")
    return (float(written[0]), float(written[1]), float(written[2]), float(written[3]))
