"""Whether few steps of one sampler end where many of another do."""

from __future__ import annotations

from typing import Any

from rdm_jax.evaluation.bench import Bench, Progress
from rdm_jax.evaluation.gallery import Target
from rdm_jax.evaluation.methods import of_prompt
from rdm_jax.evaluation.seen import Seen
from rdm_jax.evaluation.statistics import frechet_distance, moments_of

OTHER_SEED = 700_000


def compare(bench: Bench, progress: Progress) -> dict[str, Any]:
    """Returns the figures of few and many steps, and the Frechet distance of each set to the long run.

    The floor is that between two long runs from different noise.
    """
    few, long = bench.sizes.few_steps, bench.sizes.reference_steps
    runs = [
        (f"DDIM, {long} steps", "ddim", long, 0),
        (f"DDIM, {long} steps, other noise", "ddim", long, OTHER_SEED),
        (f"DPM-Solver++ 2M, {few} steps", "dpmpp_2m", few, 0),
        (f"DDIM, {few} steps", "ddim", few, 0),
    ]
    count = len(bench.targets) * bench.sizes.images
    drawn: list[Seen] = []
    for number, (_, sampler, steps, shift) in enumerate(runs):

        def report(now: int, before: int = number * count) -> None:
            """Tells the progress over all samplers."""
            progress("comparing samplers", before + now, len(runs) * count)

        def seed(target: Target, shift: int = shift) -> int:
            """Returns the seed of a target's pictures."""
            return int(bench.options(target, "")["seed"]) + shift

        images = bench.draw(lambda target: target.prompt, "", report, sampler=sampler, steps=steps, seed=seed)
        drawn.append(bench.yardstick.look(images))
    wanted = [of_prompt(target) for target in bench.targets]
    rows = []
    for (name, _, _, shift), seen in zip(runs, drawn, strict=True):
        apart = None if seen is drawn[0] else _apart(seen, drawn[0])
        plain = None if shift else drawn[0]
        rows.append({"what": name, "apart": apart, **bench.yardstick.figures(seen, wanted, plain)})
    return {"rows": rows, "reached": rows[2]["apart"] <= rows[1]["apart"]}


def _apart(one: Seen, other: Seen) -> float:
    """Returns the Frechet distance of two sets in the judge's features."""
    return frechet_distance(moments_of(one.verdict.features), moments_of(other.verdict.features))
