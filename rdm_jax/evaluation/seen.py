"""What judges, CLIP and pixels say of pictures that were led somewhere, as figures by name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from rdm_jax.evaluation import likeness
from rdm_jax.evaluation.gallery import Gallery, Target, hand_of
from rdm_jax.evaluation.judges import Judge, Verdict
from rdm_jax.evaluation.statistics import Mean, Share, frechet_distance, moments_of
from rdm_jax.retrieval.encoder import RetrievalEncoder

PLACES = (1, 5, 10, 20)
LAYOUT_SIDE = 4  # pixels; strokes and textures are finer
LOW_SIDE = 16  # pixels: ILVR's factor 4 in latents of a quarter of the size

Figures = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Seen:
    """Pictures and what networks see in them.

    Attributes:
      images: [n, h, w, 3]; of each target as many, in the targets' order.
      vectors: [n, d] of CLIP.
      verdict: of the judge.
      grams: of the judge's maps.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    vectors: Float[np.ndarray, "n d"]
    verdict: Verdict
    grams: list[Float[np.ndarray, "n _ _"]]

    def repeated(self, count: int) -> Seen:
        """Returns each picture `count` times in a row."""
        rows = np.repeat(np.arange(len(self.images)), count)
        named = {name: [values[i] for i in rows] for name, values in self.verdict.named.items()}
        verdict = Verdict(named, self.verdict.features[rows])
        return Seen(self.images[rows], self.vectors[rows], verdict, [gram[rows] for gram in self.grams])


@dataclasses.dataclass(frozen=True, eq=False)
class Yardstick:
    """Measures pictures of the same targets, one set like another.

    Attributes:
      judge: names attributes and sees features.
      encoder: the CLIP that ranks a gallery.
      targets: what runs are led to.
      others: the pictures that the targets must be told from; real pictures at the same time.
    """

    judge: Judge
    encoder: RetrievalEncoder
    targets: Sequence[Target]
    others: Gallery

    def look(self, images: UInt8[np.ndarray, "n h w 3"]) -> Seen:
        """Returns pictures with what networks see in them."""
        return Seen(images, self.encoder.encode_images(images), self.judge.judge(images), self.judge.grams(images))

    def figures(self, seen: Seen, wanted: Sequence[Mapping[str, str]], plain: Seen | None = None) -> Figures:
        """Returns all figures of a set of pictures.

        The shares that are named as wanted, the hand's under "style"; "caption@k", "picture@k" and "judged@k", how
        often the target is among the first k of the gallery (its caption and its picture by CLIP, its picture by the
        judge's features); "gram", "low", "layout": the distance of textures, of low frequencies, and the correlation of
        brightness, to the target's picture; "diversity": the mean distance of two pictures of one target, in the
        judge's features; "frechet": to the gallery; "moved" and "moved_pixels": the distance to the runs without
        guidance.

        Args:
          seen: pictures of all targets.
          wanted: the labels of each target that are asked for.
          plain: the same noise, not led.
        """
        count = len(seen.images) // len(self.targets)
        numbers = np.repeat(np.arange(len(self.targets)), count)
        references = self.references.repeated(count)
        features = seen.verdict.features
        apart = [likeness.pairwise_distances(features[numbers == number]) for number in range(len(self.targets))]
        found: Figures = {**self._shares(seen, [wanted[number] for number in numbers.tolist()])}
        found |= _places("caption", self._caption_ranks(seen.vectors, numbers))
        found |= _places("picture", likeness.ranks(seen.vectors, references.vectors, self._gallery.vectors))
        judged = likeness.ranks(features, references.verdict.features, self._gallery.verdict.features)
        found |= _places("judged", judged)
        means = {
            "gram": likeness.gram_distances(seen.grams, references.grams),
            "low": likeness.low_difference(seen.images, references.images, LOW_SIDE),
            "layout": likeness.layout(seen.images, references.images, LAYOUT_SIDE),
            "diversity": np.concatenate(apart),
        }
        if plain is not None:
            means["moved"] = np.linalg.norm(features - plain.verdict.features, axis=1)
            means["moved_pixels"] = likeness.pixel_distance(seen.images, plain.images)
        found |= {name: Mean.of(values).to_json() for name, values in means.items() if len(values)}
        return {**found, "frechet": self.frechet(features)}

    def frechet(self, features: Float[np.ndarray, "n d"]) -> float:
        """Returns the Frechet distance of features of the judge's to those of the gallery."""
        return frechet_distance(moments_of(features), self._moments)

    @functools.cached_property
    def references(self) -> Seen:
        """The targets' own pictures."""
        return self.look(np.stack([target.image for target in self.targets]))

    @functools.cached_property
    def _gallery(self) -> Seen:
        images = self.others.images
        return Seen(images, self.encoder.encode_images(images), self.judge.judge(images), [])

    @functools.cached_property
    def _moments(self) -> Any:
        return moments_of(self._gallery.verdict.features)

    @functools.cached_property
    def _captions(self) -> tuple[list[str], Float[np.ndarray, "m d"]]:
        captions = list(dict.fromkeys(self.others.captions))
        return captions, self.encoder.encode_texts(captions)

    def _caption_ranks(self, vectors: Float[np.ndarray, "n d"], numbers: np.ndarray) -> np.ndarray:
        """Returns the rank of each picture's own caption among those of the gallery that read otherwise."""
        captions, others = self._captions
        own = self.encoder.encode_texts([target.caption for target in self.targets])
        found = np.zeros(len(vectors), np.int64)
        for number, target in enumerate(self.targets):
            mine = numbers == number
            apart = np.array([caption != target.caption for caption in captions])
            wanted = np.repeat(own[number : number + 1], int(mine.sum()), axis=0)
            found[mine] = likeness.ranks(vectors[mine], wanted, others[apart])
        return found

    def _shares(self, seen: Seen, wanted: Sequence[Mapping[str, str]]) -> Figures:
        """Returns how often each attribute is named as wanted, where it is wanted and can be seen."""
        hand = hand_of(list(self.targets[0].labels))
        found = {}
        for attribute in self.judge.classes:
            rows = [i for i, labels in enumerate(wanted) if attribute in labels and self.judge.sees(labels, attribute)]
            hits = sum(seen.verdict.named[attribute][i] == wanted[i][attribute] for i in rows)
            if rows:
                found["style" if attribute == hand else attribute] = Share(hits, len(rows)).to_json()
        return found


def _places(name: str, ranks: np.ndarray) -> Figures:
    """Returns the shares of ranks within the first places, "name@k" for each k."""
    return {f"{name}@{k}": Share(int((ranks < k).sum()), len(ranks)).to_json() for k in PLACES}


def figure(found: Mapping[str, Any], name: str) -> tuple[float, float, float] | None:
    """Returns a figure and its interval, None where there is none; a figure without an interval is its own."""
    value = found.get(name)
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return float(value), float(value), float(value)
    middle = value["rate"] if "rate" in value else value["mean"]
    low, high = value["low"], value["high"]
    return middle, middle if low is None else low, middle if high is None else high
