"""Icon set expansion: whether a model makes the icon of a word in a style that no training saw.

Of every held-out style, the icons of a word are removed from the style's database, and the word is to be generated from
the others. A classifier that knows all styles and 500 captions names the style, among the held-out ones, and the
concept of each image; it names those of the designers' own icons as well, which it never saw, for comparison.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from rdm_jax.core.progress import ProgressCallback, StageProgressCallback
from rdm_jax.core.vectors import unit
from rdm_jax.data.held_out import is_held_out
from rdm_jax.evaluation.classifiers import AttributeClassifier
from rdm_jax.evaluation.icon_set_bench import WORDS, Bench, Cell
from rdm_jax.evaluation.icon_set_copies import Copies, Inks, inks, overlap
from rdm_jax.evaluation.icon_set_targets import targets
from rdm_jax.evaluation.statistics import Mean, Proportion

TOP = 5
REAL_OF_STYLE = 200  # the most own icons of each style that the classifier is tested on


@runtime_checkable
class Arm(Protocol):
    """One way of making the icon of a word in a style.

    Attributes:
      name: its key in the results.
      title: its name in a table.
    """

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    def generate(self, cells: Sequence[Cell], progress: ProgressCallback) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns the image of each cell; `progress` is called with (images done, all images)."""
        ...


@dataclasses.dataclass(frozen=True)
class Recognized:
    """What the classifier sees in images.

    Attributes:
      style: [n] whether each image's style is the wanted one, among those of the bench.
      rank: [n] how many captions are likelier than the wanted one; -1 where it is no class.
      features: [n, d].
    """

    style: Bool[np.ndarray, " n"]
    rank: Int[np.ndarray, " n"]
    features: Float[np.ndarray, "n d"]

    def proportions(self, rows: Sequence[int] | Int[np.ndarray, " m"] | None = None) -> dict[str, Any]:
        """Returns the style accuracy and the concept's top-1 and top-5 accuracy of some images, of all if None."""
        chosen = np.arange(len(self.style)) if rows is None else np.asarray(rows, np.int64)
        rank = self.rank[chosen]
        rank, style = rank[rank >= 0], self.style[chosen]
        found = {
            "style": Proportion(int(style.sum()), len(style)),
            "top1": Proportion(int((rank == 0).sum()), len(rank)),
            "top5": Proportion(int((rank < TOP).sum()), len(rank)),
        }
        return {name: proportion.to_json() for name, proportion in found.items()}


def recognize(
    classifier: AttributeClassifier,
    images: UInt8[np.ndarray, "n h w 3"],
    styles: Sequence[str],
    words: Sequence[str],
    among: Sequence[str],
) -> Recognized:
    """Returns whether images are recognized.

    Args:
      classifier: of the attributes "style" and "caption".
      images: of the size that it was trained on.
      styles: of each image.
      words: the caption of each image.
      among: the styles that an image may have.
    """
    features = classifier.classify(images).features
    logits, classes = classifier.logits(features), classifier.classes
    columns = [classes["style"].index(style) for style in among]
    named = [among[place] for place in logits["style"][:, columns].argmax(axis=1)]
    style = np.array([found == wanted for found, wanted in zip(named, styles, strict=True)], bool)
    numbers = {caption: number for number, caption in enumerate(classes["caption"])}
    caption = np.array([numbers.get(word, -1) for word in words], np.int64)
    wanted = np.take_along_axis(logits["caption"], np.maximum(caption, 0)[:, None], axis=1)
    rank = np.where(caption < 0, -1, (logits["caption"] > wanted).sum(axis=1))
    return Recognized(style, rank, features)


def measure(
    arms: Sequence[Arm], bench: Bench, classifier: AttributeClassifier, progress: StageProgressCallback
) -> tuple[dict[str, Any], dict[str, UInt8[np.ndarray, "n h w 3"]]]:
    """Generates the cells by each arm and measures all images.

    Args:
      arms: the first one is the model that the targets are for.
      bench: styles, content and cells.
      classifier: that shares nothing with the model.
      progress: called with (stage, done, total).

    Returns:
      the results as JSON values, and the images of each arm by its name.

    Raises:
      UserError: the classifier does not know a style or a word.
    """
    bench.check(classifier)
    copies = Copies.of(bench, Inks.of(bench, progress), progress)
    own = _own_features(bench, classifier)
    images, results = {}, {}
    for arm in arms:
        images[arm.name] = arm.generate(bench.cells, lambda *at, title=arm.title: progress(f"generating, {title}", *at))
        results[arm.name] = {"title": arm.title, **arm_results(classifier, images[arm.name], own, copies, progress)}
    record = {
        "styles": {name: len(icons) for name, icons in bench.styles.items()},
        "words": {group: len({cell.word for cell in bench.cells if cell.group == group}) for group in WORDS},
        "removed": Mean.of(np.array([len(bench.removed(cell)) for cell in bench.cells], np.float64)).to_json(),
        "real": real_results(bench, classifier),
        "copies": copies.record(),
        "arms": results,
    }
    return {**record, "targets": [target.to_json() for target in targets(record)]}, images


def real_results(bench: Bench, classifier: AttributeClassifier) -> dict[str, Any]:
    """Returns the classifier's accuracy on designers' own icons of the held-out styles, which it was not trained on.

    Styles are counted over at most `REAL_OF_STYLE` icons of each; concepts over all icons of a caption that it knows,
    and over those of each group of words.
    """
    share = classifier.bundle.config.get("evaluation", {}).get("held_out_share", 1.0)
    known, groups = set(classifier.classes["caption"]), {cell.word: cell.group for cell in bench.cells}
    styles, captions, counted, images = [], [], [], []
    for style, icons in bench.styles.items():
        rows = [row for row, caption in enumerate(icons.captions) if is_held_out([style, caption], share)]
        spread = set(rows[:: max(1, -(-len(rows) // REAL_OF_STYLE))])
        chosen = [row for row in rows if row in spread or icons.captions[row] in known]
        styles += [style] * len(chosen)
        captions += [icons.captions[row] for row in chosen]
        counted += [row in spread for row in chosen]
        images.append(icons.images[np.array(chosen, np.int64)])
    found = recognize(classifier, np.concatenate(images), styles, captions, tuple(bench.styles))
    of_style = {name: np.flatnonzero(counted & (np.array(styles) == name)) for name in bench.styles}
    of_group = {name: [row for row, one in enumerate(captions) if groups.get(one) == name] for name in WORDS}
    style = {"style": found.proportions(np.flatnonzero(counted))["style"]}
    return {
        "held_out_share": share,
        "overall": {**found.proportions(), **style},
        "by_group": {name: {**found.proportions(rows), **style} for name, rows in of_group.items()},
        "by_style": {name: {"style": found.proportions(rows)["style"]} for name, rows in of_style.items()},
    }


def arm_results(
    classifier: AttributeClassifier,
    images: UInt8[np.ndarray, "n h w 3"],
    own: Mapping[tuple[str, str], np.ndarray],
    copies: Copies,
    progress: StageProgressCallback,
) -> dict[str, Any]:
    """Returns what is measured of the images of one arm, over all, by group of words and by style."""
    bench, cells = copies.bench, copies.bench.cells
    styles, words = ([getattr(cell, name) for cell in cells] for name in ("style", "word"))
    found = recognize(classifier, images, styles, words, tuple(bench.styles))
    group, style, shapes = np.array([cell.group for cell in cells]), np.array(styles), inks(images)
    return {
        "images": len(cells),
        "overall": found.proportions(),
        "by_group": {name: found.proportions(np.flatnonzero(group == name)) for name in WORDS},
        "by_style": {name: found.proportions(np.flatnonzero(style == name)) for name in bench.styles},
        "own": _own_distance(copies, found.features, shapes, own),
        "copies": copies.rates(shapes, progress),
    }


def _own_features(bench: Bench, classifier: AttributeClassifier) -> dict[tuple[str, str], np.ndarray]:
    """Returns {(style, word): features of the designers' own icons}, without the cells that have none."""
    found = {}
    for style, icons in bench.styles.items():
        cells = [cell for cell in bench.cells if cell.style == style and len(bench.own(cell))]
        rows = np.unique(np.concatenate([np.zeros(0, np.int64), *(bench.own(cell) for cell in cells)]))
        if len(rows):
            features = unit(classifier.classify(icons.images[rows]).features, np.float64)
            found |= {(style, cell.word): features[np.searchsorted(rows, bench.own(cell))] for cell in cells}
    return found


def _own_distance(
    copies: Copies, features: np.ndarray, shapes: np.ndarray, own: Mapping[tuple[str, str], np.ndarray]
) -> dict[str, Any]:
    """Returns the distances of images to the nearest of the designers' own icons of their cells, where there is one.

    `feature` is 1 - cosine of the classifier's features; `ink` is 1 - the overlap of the ink.
    """
    feature, shape = [], []
    for number, cell in enumerate(copies.bench.cells):
        if (cell.style, cell.word) not in own:
            continue
        vector = unit(features[number], np.float64)
        feature.append(1.0 - (own[cell.style, cell.word] @ vector).max())
        icons = copies.inks.styles[cell.style].shapes[copies.bench.own(cell)]
        shape.append(1.0 - overlap(shapes[number], icons).max())
    if not feature:
        return {}
    return {"feature": Mean.of(np.array(feature)).to_json(), "ink": Mean.of(np.array(shape)).to_json()}
