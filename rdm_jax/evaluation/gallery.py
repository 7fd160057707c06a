"""Pictures of databases with what is known of them: references to be led to, and others that they must be told from."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from rdm_jax.core.errors import UserError
from rdm_jax.core.images import resize_and_crop
from rdm_jax.retrieval.database import Database

HANDS = ("style", "folder")  # the attributes that say in whose hand a picture is, the first that a judge knows
LEAST = 8


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures, and of each its caption and its labels.

    Attributes:
      images: [n, h, w, 3].
      captions: what each shows.
      labels: {attribute: name} of each; all have the same attributes.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    captions: list[str]
    labels: list[dict[str, str]]

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, rows: Sequence[int]) -> Gallery:
        """Returns some of the pictures."""
        return Gallery(self.images[list(rows)], [self.captions[i] for i in rows], [self.labels[i] for i in rows])


@dataclasses.dataclass(frozen=True)
class Target:
    """One picture that runs are led to, and one prompt that is bent.

    Attributes:
      number: its place among the targets; the seed of its pictures is counted from it.
      file: the reference as a PNG.
      image: the same.
      caption: of the reference.
      labels: of the reference.
      prompt: the caption of another picture, in which no hand is named.
      prompt_labels: of that one.
      hand: a hand that captions name, other than the prompt's; "" where they name none.
      changed: the prompt with one word changed, "" where that cannot be.
      changed_labels: what it asks for.
    """

    number: int
    file: Path
    image: UInt8[np.ndarray, "h w 3"]
    caption: str
    labels: Mapping[str, str]
    prompt: str
    prompt_labels: Mapping[str, str]
    hand: str
    changed: str
    changed_labels: Mapping[str, str]


def open_gallery(databases: Sequence[Database], classes: Mapping[str, Sequence[str]], side: int) -> Gallery:
    """Returns all pictures of databases that have captions, without repetitions, in a fixed random order.

    An attribute of the judge's that a picture lacks is the name of its database, where that is one of the classes; an
    attribute that some picture has none of is left out.

    Args:
      databases: what the pictures are from.
      classes: {attribute: names} that the judge knows.
      side: of the pictures in pixels.

    Raises:
      UserError: there are too few pictures, or the databases hold none.
    """
    found: dict[str, tuple[np.ndarray, str, dict[str, str]]] = {}
    for database in databases:
        rows = np.arange(len(database))
        for item, picture in zip(database.items(rows), database.thumbnails(rows), strict=True):
            if item["caption"]:
                labels = _labels(item["attributes"], database.name, classes)
                found.setdefault(item["sha256"], (picture, item["caption"], labels))
    if len(found) < LEAST or not all(database.has_thumbnails for database in databases):
        names = ", ".join(database.name for database in databases)
        raise UserError(f"databases {names} hold too few pictures with captions; build them with thumbnails")
    pictures = list(found.values())
    order = np.random.default_rng(0).permutation(len(pictures)).tolist()
    shared = [name for name in classes if all(name in labels for _, _, labels in pictures)]
    return Gallery(
        np.stack([resize_and_crop(pictures[i][0], side) for i in order]),
        [pictures[i][1] for i in order],
        [{name: pictures[i][2][name] for name in shared} for i in order],
    )


def _labels(attributes: Mapping[str, str], database: str, classes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    told = {name: attributes.get(name, database) for name in classes}
    return {name: value for name, value in told.items() if value in classes[name]}


def hand_of(attributes: Sequence[str]) -> str:
    """Returns the attribute that says in whose hand pictures are, "" if there is none."""
    return next((name for name in HANDS if name in attributes), "")


def names(caption: str, word: str) -> bool:
    """Says whether a caption holds a word or several."""
    return re.search(rf"\b{re.escape(word)}\b", caption) is not None


def told(caption: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Returns the labels that a caption names."""
    return {attribute: name for attribute, name in labels.items() if names(caption, name)}


def spread(labels: Sequence[Mapping[str, str]], count: int) -> list[int]:
    """Returns rows whose labels are as evenly spread as can be, found one by one."""
    seen: Counter[tuple[str, str]] = Counter()
    left = list(range(len(labels)))
    chosen: list[int] = []
    for _ in range(min(count, len(left))):
        best = min(left, key=lambda row: sum(seen[pair] for pair in labels[row].items()))
        left.remove(best)
        chosen.append(best)
        seen.update(labels[best].items())
    return chosen


def choose_targets(
    gallery: Gallery, classes: Mapping[str, Sequence[str]], count: int, folder: Path
) -> tuple[list[Target], list[int]]:
    """Returns targets whose pictures and prompts are spread over all labels, and the rows that they take.

    A prompt is the caption of a picture in another hand than the reference's, where there are several hands.

    Args:
      gallery: what they are chosen from.
      classes: {attribute: names}.
      count: how many.
      folder: where the references are written to.
    """
    from rdm_jax.core.images import encode

    hand = hand_of(list(gallery.labels[0]))
    hands = list(classes.get(hand, ()))
    named = [name for name in hands if any(names(caption, name) for caption in gallery.captions)]
    rows = spread(gallery.labels, count)
    plain = [
        row
        for row in range(len(gallery))
        if row not in rows and not any(names(gallery.captions[row], name) for name in hands)
    ]
    prompts = [plain[i] for i in spread([gallery.labels[row] for row in plain], len(plain) and 2 * count)]
    targets, taken = [], list(rows)
    for number, row in enumerate(rows):
        other = next((i for i in prompts if gallery.labels[i].get(hand) != gallery.labels[row].get(hand)), row)
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
                hand=_another(named, labels.get(hand, ""), number),
                changed=changed,
                changed_labels=changed_labels,
            )
        )
    return targets, taken


def changed_prompt(
    prompt: str, labels: Mapping[str, str], classes: Mapping[str, Sequence[str]], number: int
) -> tuple[str, dict[str, str]]:
    """Returns a prompt with the name of one attribute changed, and its labels then; "" where it names none.

    The last attribute that it names is changed, in the order of the judge's: of a subject and its colour, the colour.
    """
    named = [attribute for attribute in told(prompt, labels) if len(classes[attribute]) > 1]
    if not named:
        return "", {}
    attribute = named[-1]
    other = _another(list(classes[attribute]), labels[attribute], number)
    changed = re.sub(rf"\b{re.escape(labels[attribute])}\b", other, prompt, count=1)
    return changed, {**labels, attribute: other}


def _another(names: Sequence[str], name: str, number: int) -> str:
    """Returns one of some names that is not `name`, in turn; "" if there is none."""
    others = [one for one in names if one != name]
    return others[number % len(others)] if others else ""
