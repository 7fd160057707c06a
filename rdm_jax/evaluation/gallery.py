"""Images of databases with their labels: references that guidance aims at, and distractors."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from rdm_jax.core.errors import UserError, some
from rdm_jax.core.images import resize_and_crop
from rdm_jax.retrieval.database import Database

STYLE_ATTRIBUTES = (
    "style",
    "folder",
)  # the attributes that may name an image's style; the first one that a classifier has counts
LEAST = 8


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images with their captions and labels.

    Attributes:
      images: [n, h, w, 3].
      captions: one of each image.
      labels: {attribute: name} of each image; all have the same attributes.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    captions: list[str]
    labels: list[dict[str, str]]

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, rows: Sequence[int]) -> Gallery:
        """Returns some of the images."""
        return Gallery(self.images[list(rows)], [self.captions[i] for i in rows], [self.labels[i] for i in rows])


@dataclasses.dataclass(frozen=True)
class Target:
    """One image that guidance aims at, and one prompt that is guided.

    Attributes:
      number: its index; the seed of its images depends on it.
      file: the reference as a PNG file.
      image: the reference.
      caption: of the reference.
      labels: of the reference.
      prompt: the caption of another image, which names no style.
      prompt_labels: of that one.
      style: a style that captions name, other than the prompt's; "" if they name none.
      changed: the prompt with one word changed, "" if that is impossible.
      changed_labels: the labels of the changed prompt.
    """

    number: int
    file: Path
    image: UInt8[np.ndarray, "h w 3"]
    caption: str
    labels: Mapping[str, str]
    prompt: str
    prompt_labels: Mapping[str, str]
    style: str
    changed: str
    changed_labels: Mapping[str, str]


def open_gallery(databases: Sequence[Database], classes: Mapping[str, Sequence[str]], side: int) -> Gallery:
    """Returns all images of databases that have captions, without repetitions, in a fixed random order.

    The name of a database stands for a missing attribute of its images, if it is one of the classes. An attribute that
    some image still lacks is left out.

    Args:
      databases: of the images.
      classes: {attribute: names} of the classifier.
      side: of the images in pixels.

    Raises:
      UserError: there are too few images, or a database has no thumbnails.
    """
    found: dict[str, tuple[np.ndarray, str, dict[str, str]]] = {}
    for database in databases:
        rows = np.arange(len(database))
        for item, image in zip(database.items(rows), database.thumbnails(rows), strict=True):
            if item["caption"]:
                labels = _labels(item["attributes"], database.name, classes)
                found.setdefault(item["sha256"], (image, item["caption"], labels))
    if len(found) < LEAST or not all(database.has_thumbnails for database in databases):
        names = some(database.name for database in databases)
        raise UserError(f"databases {names} hold too few images with captions; build them with thumbnails")
    images = list(found.values())
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    shared = [name for name in classes if all(name in labels for _, _, labels in images)]
    return Gallery(
        np.stack([resize_and_crop(images[i][0], side) for i in order]),
        [images[i][1] for i in order],
        [{name: images[i][2][name] for name in shared} for i in order],
    )


def _labels(attributes: Mapping[str, str], database: str, classes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    labels = {name: attributes.get(name, database) for name in classes}
    return {name: value for name, value in labels.items() if value in classes[name]}


def style_attribute(attributes: Sequence[str]) -> str:
    """Returns the attribute that names the style of images, "" if there is none."""
    return next((name for name in STYLE_ATTRIBUTES if name in attributes), "")


def is_named(caption: str, word: str) -> bool:
    """Returns whether a caption has a word, or several in a row."""
    return re.search(rf"\b{re.escape(word)}\b", caption) is not None


def named_labels(caption: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Returns the labels that a caption names."""
    return {attribute: name for attribute, name in labels.items() if is_named(caption, name)}


def spread(labels: Sequence[Mapping[str, str]], count: int) -> list[int]:
    """Returns rows whose labels are spread as evenly as possible, chosen greedily."""
    counts: Counter[tuple[str, str]] = Counter()
    left = list(range(len(labels)))
    chosen: list[int] = []
    for _ in range(min(count, len(left))):
        best = min(left, key=lambda row: sum(counts[pair] for pair in labels[row].items()))
        left.remove(best)
        chosen.append(best)
        counts.update(labels[best].items())
    return chosen


def choose_targets(
    gallery: Gallery, classes: Mapping[str, Sequence[str]], count: int, folder: Path
) -> tuple[list[Target], list[int]]:
    """Returns targets whose images and prompts are spread over all labels, and the rows that they use.

    A prompt is the caption of an image in another style than the reference, if there are several styles.

    Args:
      gallery: to choose from.
      classes: {attribute: names}.
      count: of the targets.
      folder: for the files of the references.
    """
    from rdm_jax.core.images import encode

    style = style_attribute(list(gallery.labels[0]))
    styles = list(classes.get(style, ()))
    named = [name for name in styles if any(is_named(caption, name) for caption in gallery.captions)]
    rows = spread(gallery.labels, count)
    plain = [
        row
        for row in range(len(gallery))
        if row not in rows and not any(is_named(gallery.captions[row], name) for name in styles)
    ]
    prompts = [plain[i] for i in spread([gallery.labels[row] for row in plain], len(plain) and 2 * count)]
    targets, taken = [], list(rows)
    for number, row in enumerate(rows):
        other = next((i for i in prompts if gallery.labels[i].get(style) != gallery.labels[row].get(style)), row)
        prompts = [i for i in prompts if i != other]
        taken.append(other)
        file = folder / f"{number:03d}.png"
        file.write_bytes(encode(gallery.images[row]))
        prompt, labels = gallery.captions[other], gallery.labels[other]
        changed, changed_labels = changed_prompt(prompt, labels, classes, number)
        targets.append(
            Target(
                number=number,
                file=file,
                image=gallery.images[row],
                caption=gallery.captions[row],
                labels=gallery.labels[row],
                prompt=prompt,
                prompt_labels=labels,
                style=_another(named, labels.get(style, ""), number),
                changed=changed,
                changed_labels=changed_labels,
            )
        )
    return targets, taken


def changed_prompt(
    prompt: str, labels: Mapping[str, str], classes: Mapping[str, Sequence[str]], number: int
) -> tuple[str, dict[str, str]]:
    """Returns a prompt with the name of one attribute changed, and its labels then; "" if it names none.

    It is the last attribute that the prompt names, in the order of the classifier: the color of a subject with a color.
    """
    named = [attribute for attribute in named_labels(prompt, labels) if len(classes[attribute]) > 1]
    if not named:
        return "", {}
    attribute = named[-1]
    other = _another(list(classes[attribute]), labels[attribute], number)
    changed = re.sub(rf"\b{re.escape(labels[attribute])}\b", other, prompt, count=1)
    return changed, {**labels, attribute: other}


def _another(names: Sequence[str], name: str, number: int) -> str:
    """Returns one of the names other than `name`, in turn; "" if there is none."""
    others = [other for other in names if other != name]
    return others[number % len(others)] if others else ""
