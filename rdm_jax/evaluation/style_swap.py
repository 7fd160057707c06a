"""Whether swapping the database swaps the style: arms of samples, judged by what shares nothing with CLIP."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rdm_jax.data.style_scenes.vocabulary import COLOURS, STYLES, SUBJECTS
from rdm_jax.evaluation.arms import ARMS, Arm, Pair, cells_of
from rdm_jax.evaluation.comparisons import (
    Judged,
    Progress,
    Reconstruct,
    autoencoder,
    copies,
    diversity,
    frechet,
    likenesses,
)
from rdm_jax.evaluation.drawing import Artist
from rdm_jax.evaluation.judges import Judge, Labels, Verdict, real_pictures
from rdm_jax.evaluation.statistics import Share

ATTRIBUTES = ("subject", "colour", "style")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many pictures each part of the measurement takes.

    Attributes:
      first: samples of the first arm.
      least: samples of each other arm.
      real: held-out real pictures that the judge is tried on.
      reconstructed: real pictures that the autoencoder repeats.
    """

    first: int = 1_000
    least: int = 200
    real: int = 2_304
    reconstructed: int = 1_152


QUICK = Sizes(first=48, least=24, real=144, reconstructed=48)


def measure(
    artist: Artist,
    reconstruct: Reconstruct | None,
    judge: Judge,
    sizes: Sizes,
    progress: Progress,
    arms: Sequence[Arm] = ARMS,
) -> tuple[dict[str, Any], dict[str, Judged]]:
    """Draws and judges all arms, and measures everything that is said of them.

    Args:
      artist: draws and knows the databases.
      reconstruct: pictures through the model's autoencoder and back; None leaves that part out.
      judge: names subjects, colours and styles.
      sizes: how many pictures.
      progress: called with (what, done, total).
      arms: what to draw; the first one is compared with real pictures.

    Returns:
      the results as JSON values, and the judged samples by the name of their arm.

    Raises:
      UserError: a database is missing, or the judge does not know the pictures' classes.
    """
    judge.require({"subject": SUBJECTS, "colour": tuple(COLOURS), "style": STYLES})
    indices = spread_indices(sizes.real)
    real = real_pictures("test", indices, lambda *at: progress("drawing real pictures", *at))
    seen = judge.judge(real.images)
    judged = draw_arms(artist, judge, sizes, arms, progress)
    first = judged[arms[0].name]
    like = likenesses(judge, first)
    results = {
        "judge": {
            **{name: share.to_json() for name, share in judge.shares(seen, real.labels).items()},
            "by_style": _shares_by(judge, seen, real.labels, "style"),
        },
        "arms": {name: arm_results(judge, one) for name, one in judged.items()},
        "every_pair": every_pair(judge, list(judged.values())),
        "diversity": diversity(first, like),
        "copies": copies(artist, judge, first, real, seen),
        "frechet": frechet(first, like),
    }
    if reconstruct:
        some = real.where(np.arange(len(real)) < sizes.reconstructed)
        results["autoencoder"] = autoencoder(reconstruct, judge, some, progress)
    return results, judged


def spread_indices(count: int, cycle: int = 1_152) -> list[int]:
    """Returns the first `count` indices of a balanced split, each cycle in a fixed random order.

    The split goes through all styles, subjects and colours once in `cycle` pictures, colours slowest: so the first few
    of a cycle would all be of one colour.
    """
    order = np.random.default_rng(0).permutation(cycle)
    return [int(order[i % cycle]) + i // cycle * cycle for i in range(count)]


def draw_arms(artist: Artist, judge: Judge, sizes: Sizes, arms: Sequence[Arm], progress: Progress) -> dict[str, Judged]:
    """Returns the judged samples of every arm; progress counts the samples of all arms."""
    asked = {arm.name: cells_of(arm, sizes.first if arm is ARMS[0] else sizes.least) for arm in arms}
    total = sum(map(len, asked.values()))
    judged, before = {}, 0
    for arm in arms:
        wanted = asked[arm.name]
        drawn = artist.draw(wanted, lambda done, _, before=before: progress("drawing samples", before + done, total))
        judged[arm.name] = Judged(arm, wanted, drawn, judge.judge(drawn.images))
        before += len(wanted)
    return judged


def arm_results(judge: Judge, judged: Judged) -> dict[str, Any]:
    """Returns an arm's shares over all, by style and by subject; whether targets are met; and what neighbours were."""
    overall = judge.shares(judged.verdict, judged.labels)
    rates = {attribute: share.to_json() for attribute, share in overall.items()}
    arm = judged.arm
    return {
        "title": arm.title,
        "samples": len(judged.cells),
        **rates,
        "targets": dict(arm.targets),
        "met": {attribute: overall[attribute].rate >= least for attribute, least in arm.targets.items()},
        "at_chance": {attribute: 1 / len(judge.classes[attribute]) for attribute in arm.at_chance},
        "by_style": _shares_by(judge, judged.verdict, judged.labels, "style"),
        "by_subject": _shares_by(judge, judged.verdict, judged.labels, "subject"),
        "named": {attribute: dict(Counter(names).most_common()) for attribute, names in judged.verdict.named.items()},
        "neighbors": _neighbor_agreement(judge, judged),
    }


def every_pair(judge: Judge, judged: Sequence[Judged]) -> dict[str, Any]:
    """Returns the shares over all subjects and styles drawn from the style's own database, each pair weighed equally.

    Joins the arms that differ in their pairs alone: the trained pairs, the held-out ones and the kept-out style.
    """
    hits: dict[str, dict[Pair, list[float]]] = {attribute: {} for attribute in ATTRIBUTES}
    for one in judged:
        if not one.arm.own_database or one.arm.random_neighbors:
            continue
        for attribute in ATTRIBUTES:
            correct = one.verdict.correct(one.labels, attribute)
            for labels, hit in zip(one.labels, correct, strict=True):
                if judge.sees(labels, attribute):
                    hits[attribute].setdefault((labels["subject"], labels["style"]), []).append(float(hit))
    means = {attribute: [float(np.mean(found)) for found in pairs.values()] for attribute, pairs in hits.items()}
    return {
        attribute: {"rate": float(np.mean(of)) if of else None, "pairs": len(of)} for attribute, of in means.items()
    }


def _shares_by(judge: Judge, verdict: Verdict, wanted: Labels, label: str) -> dict[str, Any]:
    groups = np.array([labels[label] for labels in wanted])
    found = {}
    for group in sorted(set(groups.tolist())):
        rows = np.flatnonzero(groups == group).tolist()
        named = {attribute: [names[row] for row in rows] for attribute, names in verdict.named.items()}
        shares = judge.shares(Verdict(named, verdict.features[rows]), [wanted[row] for row in rows])
        found[group] = {attribute: share.to_json() for attribute, share in shares.items()}
    return found


def _neighbor_agreement(judge: Judge, judged: Judged) -> dict[str, Any]:
    """Returns, for each attribute, the share of neighbours that have it as wanted, where it can be seen."""
    found = {}
    for attribute in ATTRIBUTES:
        pairs = [
            (neighbor.get(attribute), labels[attribute])
            for neighbors, labels in zip(judged.drawn.neighbors, judged.labels, strict=True)
            if judge.sees(labels, attribute)
            for neighbor in neighbors
        ]
        found[attribute] = Share(sum(have == want for have, want in pairs), len(pairs)).to_json()
    return found
