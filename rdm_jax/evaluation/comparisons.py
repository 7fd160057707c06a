"""What else is said of samples: how varied they are, whether they are copies, how far they are from real pictures."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from rdm_jax.evaluation.arms import Arm, Cell
from rdm_jax.evaluation.drawing import Artist, Drawn
from rdm_jax.evaluation.judges import Judge, RealPictures, Verdict, drawn_like
from rdm_jax.evaluation.statistics import Share, frechet_distance, moments_of, nearest_cosine, nearest_rmse, psnr

AUTOENCODER_TARGETS = {"psnr": 24.0, "psnr_lowest": 17.0, "style": 0.99}
RECONSTRUCT_BATCH = 32

Progress = Callable[[str, int, int], None]
Reconstruct = Callable[[UInt8[np.ndarray, "n h w 3"]], UInt8[np.ndarray, "n h w 3"]]


@dataclasses.dataclass(frozen=True)
class Judged:
    """An arm's samples and what the judge says of them."""

    arm: Arm
    cells: list[Cell]
    drawn: Drawn
    verdict: Verdict

    @property
    def labels(self) -> list[dict[str, str]]:
        """What each sample was asked to be."""
        return [{"subject": cell.subject, "colour": cell.colour, "style": cell.style} for cell in self.cells]


@dataclasses.dataclass(frozen=True)
class Likenesses:
    """Real pictures with the labels of an arm's samples, one for each sample, drawn twice, and what the judge sees.

    Attributes:
      first: on any ground, as the prompts leave it open.
      second: the same labels once more, on any ground.
      grounded: the labels of `first` once more, on its ground.
      features: [n, d] of each of the three, in this order.
    """

    first: RealPictures
    second: RealPictures
    grounded: RealPictures
    features: tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d"], Float[np.ndarray, "n d"]]


def likenesses(judge: Judge, judged: Judged) -> Likenesses:
    """Draws real pictures of what an arm's samples were asked to be."""
    first, second = (drawn_like(judged.labels, seed) for seed in (1, 2))
    grounded = drawn_like(first.labels, 3)
    a, b, c = (judge.judge(real.images).features for real in (first, second, grounded))
    return Likenesses(first, second, grounded, (a, b, c))


def diversity(judged: Judged, like: Likenesses) -> dict[str, Any]:
    """Returns how far apart two samples of one prompt and database are, and two real pictures of the same words.

    Distances are those of the judge's features (Euclidean) and of pixels (root mean square, levels of 255), averaged
    over all pairs of samples that share prompt and database, and over pairs of real pictures with the same labels: on
    any ground, and on the same ground.
    """
    pairs = pairs_within([(cell.prompt, cell.database) for cell in judged.cells])
    a, b = np.array(pairs, np.int64).reshape(-1, 2).T
    images, features = judged.drawn.images, judged.verdict.features
    first, second, grounded = like.features
    return {
        "samples": _distances(images[a], images[b], features[a], features[b]),
        "real": _distances(like.first.images, like.second.images, first, second),
        "real_same_ground": _distances(like.first.images, like.grounded.images, first, grounded),
    }


def _distances(
    a: UInt8[np.ndarray, "n h w 3"],
    b: UInt8[np.ndarray, "n h w 3"],
    features_a: Float[np.ndarray, "n d"],
    features_b: Float[np.ndarray, "n d"],
) -> dict[str, Any]:
    if not len(a):
        return {"pairs": 0, "feature": None, "pixel": None}
    pixel = np.sqrt(np.square(a.astype(np.float64) - b.astype(np.float64)).mean(axis=(1, 2, 3)))
    feature = np.linalg.norm(features_a.astype(np.float64) - features_b.astype(np.float64), axis=1)
    return {"pairs": len(a), "feature": float(feature.mean()), "pixel": float(pixel.mean())}


def pairs_within(groups: Sequence[Any]) -> list[tuple[int, int]]:
    """Returns all pairs of positions whose groups are equal."""
    members: dict[Any, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    return [pair for positions in members.values() for pair in itertools.combinations(positions, 2)]


def copies(artist: Artist, judge: Judge, judged: Judged, real: RealPictures, seen: Verdict) -> dict[str, Any]:
    """Returns how near samples come to the database that they were drawn from, beside held-out pictures of the style.

    For each database, every sample's nearest picture in it by pixels (root mean square, levels of 255)
    and by the cosine of the judge's features. `nearer_than_real` is the share of samples that are nearer by pixels than
    the nearest hundredth of held-out real pictures is; without copying it is about 0.01.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("rmse", "cosine", "real_rmse", "real_cosine")}
    databases = np.array([cell.database for cell in judged.cells])
    for database in sorted(set(databases.tolist())):
        pictures = artist.thumbnails(database)
        features = judge.judge(pictures).features
        styles = {cell.style for cell in judged.cells if cell.database == database}
        mine, theirs = databases == database, np.array([labels["style"] in styles for labels in real.labels])
        found["rmse"].append(nearest_rmse(judged.drawn.images[mine], pictures))
        found["cosine"].append(nearest_cosine(judged.verdict.features[mine], features))
        found["real_rmse"].append(nearest_rmse(real.images[theirs], pictures))
        found["real_cosine"].append(nearest_cosine(seen.features[theirs], features))
    values = {name: np.concatenate(parts) for name, parts in found.items()}
    threshold = float(np.quantile(values["real_rmse"], 0.01))
    near = int((values["rmse"] < threshold).sum())
    quantiles = {name: _quantiles(of, nearest_is_low="rmse" in name) for name, of in values.items()}
    return {**quantiles, "threshold_rmse": threshold, "nearer_than_real": Share(near, len(values["rmse"])).to_json()}


def frechet(judged: Judged, like: Likenesses) -> dict[str, Any]:
    """Returns the Frechet distance of samples to real pictures with the same labels in the judge's features.

    The floor is that of other real pictures, as many, since the distance falls with their number.
    """
    reference = moments_of(like.features[0])
    return {
        "samples": frechet_distance(moments_of(judged.verdict.features), reference),
        "real": frechet_distance(moments_of(like.features[1]), reference),
        "count": len(judged.cells),
    }


def autoencoder(reconstruct: Reconstruct, judge: Judge, real: RealPictures, progress: Progress) -> dict[str, Any]:
    """Returns the PSNR of reconstructions, on average and by style, and how often the judge names their own labels."""
    parts = []
    for start in range(0, len(real), RECONSTRUCT_BATCH):
        parts.append(reconstruct(real.images[start : start + RECONSTRUCT_BATCH]))
        progress("reconstructing", min(start + RECONSTRUCT_BATCH, len(real)), len(real))
    repeated = np.concatenate(parts)
    decibels = psnr(repeated, real.images)
    verdict = judge.judge(repeated)
    styles = np.array([labels["style"] for labels in real.labels])
    by_style = {
        style: {
            "psnr": float(decibels[styles == style].mean()),
            "style": Share(
                int(verdict.correct(real.labels, "style")[styles == style].sum()), int((styles == style).sum())
            ).to_json(),
        }
        for style in sorted(set(styles.tolist()))
    }
    shares = judge.shares(verdict, real.labels)
    lowest = min(by_style, key=lambda style: by_style[style]["psnr"])
    figures = {"psnr": float(decibels.mean()), "psnr_lowest": by_style[lowest]["psnr"], "style": shares["style"].rate}
    return {
        "pictures": len(real),
        "psnr": figures["psnr"],
        "lowest": {"style": lowest, "psnr": figures["psnr_lowest"]},
        **{name: share.to_json() for name, share in shares.items()},
        "by_style": by_style,
        "targets": AUTOENCODER_TARGETS,
        "met": {name: figures[name] >= least for name, least in AUTOENCODER_TARGETS.items()},
    }


def _quantiles(values: Float[np.ndarray, " n"], nearest_is_low: bool) -> dict[str, float]:
    nearest = values.min() if nearest_is_low else values.max()
    hundredth = np.quantile(values, 0.01 if nearest_is_low else 0.99)
    return {"median": float(np.median(values)), "nearest_hundredth": float(hundredth), "nearest": float(nearest)}
