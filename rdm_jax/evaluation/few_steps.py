"""Whether few steps of one sampler reach the result of many steps of another."""

from __future__ import annotations

from typing import Any

from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.evaluation.bench import SAMPLER, Bench
from rdm_jax.evaluation.gallery import Target
from rdm_jax.evaluation.measures import EncodedImages
from rdm_jax.evaluation.methods import of_prompt
from rdm_jax.evaluation.metrics.frechet import frechet_distance, moments_of

OTHER_SEED = 700_000


def compare(bench: Bench, progress: StageProgressCallback) -> dict[str, Any]:
    """Returns the measures of few and many steps, and the Frechet distance of each set to the long run.

    The floor is that between two long runs from different noise.
    """
    few, long = bench.sizes.few_steps, bench.sizes.reference_steps
    runs = [
        (f"DDIM, {long} steps", SAMPLER, long, 0),
        (f"DDIM, {long} steps, other noise", SAMPLER, long, OTHER_SEED),
        (f"DPM-Solver++ 2M, {few} steps", "dpmpp_2m", few, 0),
        (f"DDIM, {few} steps", SAMPLER, few, 0),
    ]
    count = len(bench.targets) * bench.sizes.images
    encoded: list[EncodedImages] = []
    for number, (_, sampler, steps, shift) in enumerate(runs):

        def report(now: int, before: int = number * count) -> None:
            """Reports the progress over all samplers."""
            progress("comparing samplers", before + now, len(runs) * count)

        def seed(target: Target, shift: int = shift) -> int:
            """Returns the seed of a target's images."""
            return int(bench.options(target, "")["seed"]) + shift

        images = bench.generate(lambda target: target.prompt, "", report, sampler=sampler, steps=steps, seed=seed)
        encoded.append(bench.metrics.encode(images))
    wanted = [of_prompt(target) for target in bench.targets]
    rows = []
    for (name, _, _, shift), images in zip(runs, encoded, strict=True):
        distance = None if images is encoded[0] else _distance(images, encoded[0])
        plain = None if shift else encoded[0]
        rows.append({"what": name, "distance": distance, **bench.metrics.measure(images, wanted, plain)})
    return {"rows": rows, "reached": rows[2]["distance"] <= rows[1]["distance"]}


def _distance(first: EncodedImages, other: EncodedImages) -> float:
    """Returns the Frechet distance of two sets in the classifier's features."""
    return frechet_distance(moments_of(first.classification.features), moments_of(other.classification.features))
