"""Whether guidance does what it promises: each method against the run without it, from the same noise."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from rdm_jax.core.errors import UserError
from rdm_jax.core.images import encode
from rdm_jax.editing.mixing import KEPT_AT_FIRST, learn
from rdm_jax.evaluation import likeness
from rdm_jax.evaluation.clip_only import ascend
from rdm_jax.evaluation.gallery import Gallery, Target, choose_targets, hand_of, open_gallery
from rdm_jax.evaluation.judges import Judge
from rdm_jax.evaluation.methods import (
    FREE,
    LESS,
    METHODS,
    MORE,
    NONE,
    OWN,
    Method,
    Promise,
    filled,
    of_caption,
    of_prompt,
    words,
)
from rdm_jax.evaluation.seen import Figures, Seen, Yardstick, figure
from rdm_jax.evaluation.statistics import frechet_distance, moments_of
from rdm_jax.generator import Generator
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.retriever import Retriever

Progress = Callable[[str, int, int], None]
Learner = Callable[[Generator, str, str, Mapping[str, Any]], Sequence[float]]
"""(generator, prompt, changed prompt, options of `Generator.plan`) to the weights of the prompt, one for each step, as
the condition `mix` takes them. They are measured on other seeds and other prompts than they are learned on."""

SAMPLER = "ddim"
FIRST_SEED, LEARNING_SEED, OTHER_SEED = 1_000, 500_000, 700_000


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is drawn.

    Attributes:
      targets: how many references and prompts.
      images: of each of them.
      others: pictures that a reference must be told from.
      steps: of the sampler.
      ascent: steps of CLIP alone.
      few_steps: of the short run of DPM-Solver++.
      reference_steps: of the long run of DDIM that it is compared with.
      sweep: whether all weights are tried, and not those of the tables alone.
    """

    targets: int = 24
    images: int = 4
    others: int = 1_000
    steps: int = 20
    ascent: int = 40
    few_steps: int = 15
    reference_steps: int = 100
    sweep: bool = True


QUICK = Sizes(targets=4, images=2, others=100, steps=5, ascent=5, few_steps=5, reference_steps=10, sweep=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """Everything that pictures are drawn and measured with.

    Attributes:
      generator: the model.
      retriever: over the databases that prompts fetch neighbours from.
      yardstick: judge, CLIP and gallery.
      rest: real pictures that are in no gallery.
      sizes: how much is drawn.
      mask: a file, white where pictures are painted anew: the right half.
      seed: what all seeds are counted from.
    """

    generator: Generator
    retriever: Retriever
    yardstick: Yardstick
    rest: Gallery
    sizes: Sizes
    mask: Path
    seed: int = 0

    @property
    def targets(self) -> list[Target]:
        """What runs are led to."""
        return list(self.yardstick.targets)

    @property
    def kept(self) -> Bool[np.ndarray, "h w"]:
        """Where inpainting leaves a picture as it is."""
        height, width = self.targets[0].image.shape[:2]
        return np.broadcast_to(np.arange(width)[None] < width // 2, (height, width))

    def options(self, target: Target, base: str) -> dict[str, Any]:
        """Returns how the pictures of a target are drawn on a base; the same noise on every one."""
        return {
            "database": self.retriever,
            "num_images": self.sizes.images,
            "batch_size": self.sizes.images,
            "steps": self.sizes.steps,
            "sampler": SAMPLER,
            "seed": self.seed + FIRST_SEED + target.number,
            # The null condition alone: the unconditional model, which the paper's guidance bends.
            **({"guidance_scale": 0.0} if base == FREE else {}),
        }

    def draw(
        self, prompt: Callable[[Target], str], base: str, progress: Callable[[int], None], **more: Any
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns the pictures of all targets.

        Args:
          prompt: of a target.
          base: what is bent.
          progress: called with the number of pictures done.
          **more: options of `Generator.plan`; a function is asked for each target's own.
        """
        images = []
        for done, target in enumerate(self.targets, 1):
            own = {name: value(target) if callable(value) else value for name, value in more.items()}
            result = self.generator.sample(prompt(target), **{**self.options(target, base), **own})
            images.append(result.images)
            progress(done * self.sizes.images)
        return np.concatenate(images)

    def asked(self, method: Method, weight: float, learned: Path) -> dict[str, Any]:
        """Returns the options of a method for `draw`."""

        def texts(templates: Sequence[str], target: Target) -> list[str]:
            """Returns templates filled in."""
            files = {"mask": str(self.mask), "learned": str(learned)}
            return [filled(template, target, weight, **files) for template in templates]

        return {
            "guides": functools.partial(texts, method.guides),
            "conditions": functools.partial(texts, method.conditions),
        }


def open_bench(
    generator: Generator, databases: Sequence[Database], judge: Judge, sizes: Sizes, folder: Path, seed: int = 0
) -> Bench:
    """Returns a bench whose references and masks are files of a folder.

    Args:
      generator: the model.
      databases: what prompts fetch neighbours from, and the gallery is of.
      judge: of the pictures.
      sizes: how much is drawn.
      folder: for the files.
      seed: of the run.

    Raises:
      UserError: the databases hold too few pictures, or were made by another encoder.
    """
    sampling = generator.bundle.config["sampling"]
    gallery = open_gallery(databases, judge.classes, int(sampling["height"]))
    targets, taken = choose_targets(gallery, judge.classes, min(sizes.targets, len(gallery) // 4), folder)
    left = [row for row in range(len(gallery)) if row not in set(taken)]
    spare = len(targets) * sizes.images
    others = left[: min(sizes.others, max(len(left) // 2, len(left) - spare))]
    rest = gallery.take([row for row in left if row not in set(others)][:spare])
    retriever = Retriever(generator.encoder, list(databases))
    yardstick = Yardstick(judge, generator.encoder, targets, gallery.take(others))
    bench = Bench(generator, retriever, yardstick, rest, sizes, folder / "mask.png", seed)
    white = np.repeat(np.where(bench.kept, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    bench.mask.write_bytes(encode(white))
    return bench


def learned_mixing(generator: Generator, prompt: str, changed: str, options: Mapping[str, Any]) -> list[float]:
    """Returns the weights that a few updates learn (https://arxiv.org/abs/2212.08698), a `Learner`."""
    plan = generator.plan(prompt, conditions=[f"switch(prompt={changed!r}, after={KEPT_AT_FIRST})"], **options)
    return learn(generator, plan).weights.tolist()


def measure(
    bench: Bench,
    progress: Progress,
    methods: Sequence[Method] = METHODS,
    learner: Learner = learned_mixing,
) -> tuple[dict[str, Any], dict[str, dict[str, Seen]]]:
    """Draws and measures all methods.

    Args:
      bench: from `open_bench`.
      progress: called with (what, done, total).
      methods: what to measure.
      learner: of the weights of disentangled editing.

    Returns:
      the results as JSON values, and for each method what was "unguided" and "guided".
    """
    lacking = {method.name: _lacks(method, bench) for method in methods}
    ready = [method for method in methods if not lacking[method.name]]
    if not ready:
        raise UserError("nothing can be measured: " + "; ".join(f"{name}: {why}" for name, why in lacking.items()))
    count = len(bench.targets) * bench.sizes.images
    sets = sum(len(_weights(method, bench)) + bool(method.outright) for method in ready)
    total = (sets + len({method.base for method in ready})) * count
    done = 0

    def report(now: int) -> None:
        """Tells the progress over all sets."""
        nonlocal done
        progress("drawing samples", done + now, total)
        done += now if now == count else 0

    controls = {base: bench.yardstick.look(_control(bench, base, report)) for base in {m.base for m in ready}}
    results: dict[str, Any] = {}
    shown: dict[str, dict[str, Seen]] = {}
    for method in methods:
        if lacking[method.name]:
            results[method.name] = {"title": method.title, "left_out": lacking[method.name]}
            continue
        found, drawn = _method(bench, method, controls[method.base], report, learner)
        results[method.name], shown[method.name] = found, drawn
    return {
        "gallery": _gallery_record(bench),
        "real": _real(bench),
        "methods": results,
        "alone": _alone(bench, progress),
        "samplers": _samplers(bench, progress),
    }, shown


def _lacks(method: Method, bench: Bench) -> str:
    """Returns why a method cannot be measured, "" if it can."""
    bundle = bench.generator.bundle
    why = method.lacks(bundle.has, bench.targets)
    if not why and "noised_classifier" in method.needs:
        known = bundle.config["noised_classifier"]["classes"].get(hand_of(list(bench.targets[0].labels)), ())
        why = "" if all(target.hand in known for target in bench.targets) else "the classifier knows other styles"
    return why


def _weights(method: Method, bench: Bench) -> tuple[float, ...]:
    return method.weights if bench.sizes.sweep else (method.weight,)


def _prompt_of(base: str) -> Callable[[Target], str]:
    return (lambda target: target.caption) if base == OWN else (lambda target: target.prompt)


def _control(bench: Bench, base: str, report: Callable[[int], None]) -> UInt8[np.ndarray, "n h w 3"]:
    return bench.draw(_prompt_of(base), base, report)


def _method(
    bench: Bench, method: Method, control: Seen, report: Callable[[int], None], learner: Learner
) -> tuple[dict[str, Any], dict[str, Seen]]:
    """Returns the results of a method, and what was drawn without and with it."""
    look, targets = bench.yardstick.look, bench.targets
    wanted = [method.wanted(target) for target in targets]
    masked = any("{mask}" in guide for guide in method.guides)
    plain = look(_pasted(bench, control.images)) if masked else control
    figures = functools.partial(bench.yardstick.figures, wanted=wanted, plain=control)

    def told(seen: Seen) -> Figures:
        """Returns the figures of a set, those of regions among them where there is a mask."""
        return {**figures(seen), **(_regions(bench, seen.images) if masked else {})}

    rows = [{"what": "pasted, unguided" if masked else "unguided", **told(plain)}]
    if method.outright:
        prompt = words if method.outright == "hand" else (lambda target: target.changed)
        rows.append({"what": "asked in words", **told(look(bench.draw(prompt, method.base, report)))})
    learned = _learn(bench, learner) if any("{learned}" in one for one in method.conditions) else Path()
    guided = plain
    for weight in _weights(method, bench):
        asked = bench.asked(method, weight, learned)
        seen = look(bench.draw(_prompt_of(method.base), method.base, report, **asked))
        what = f"{method.symbol} {weight:g}" if len(method.weights) > 1 else "guided"
        rows.append({"what": what, "weight": weight, **told(seen)})
        guided = seen if weight == method.weight else guided
    chosen = next(row for row in rows if row.get("weight") == method.weight)
    return {
        "title": method.title,
        "base": method.base,
        "weight": method.weight,
        "figures": list(method.figures),
        "rows": rows,
        "promises": [found for one in method.promises if (found := kept(one, rows[0], chosen))],
    }, {"unguided": plain, "guided": guided}


def kept(promise: Promise, without: Mapping[str, Any], with_: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns whether a promise is kept: "yes", "no", or "within noise" where the intervals overlap.

    What should stay the SAME is kept where the interval with guidance reaches that without. None where there is no such
    figure.
    """
    before, after = figure(without, promise.figure), figure(with_, promise.figure)
    if before is None or after is None:
        return None
    (middle, low, high), (now, now_low, now_high) = before, after
    if promise.direction == MORE:
        verdict = "yes" if now_low > high else "within noise" if now > middle else "no"
    elif promise.direction == NONE:
        verdict = "yes" if now == 0 else "no"
    elif promise.direction == LESS:
        verdict = "yes" if now_high < low else "within noise" if now < middle else "no"
    else:
        verdict = "yes" if now_high >= low else "no"
    told = {"figure": promise.figure, "direction": promise.direction}
    return {**told, "without": without[promise.figure], "with": with_[promise.figure], "kept": verdict}


def _pasted(bench: Bench, images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns pictures with the known region of the references laid over them: what no inpainting must do better."""
    references = np.repeat(np.stack([target.image for target in bench.targets]), bench.sizes.images, axis=0)
    return np.where(bench.kept[None, :, :, None], references, images)


def _regions(bench: Bench, images: UInt8[np.ndarray, "n h w 3"]) -> Figures:
    """Returns how much the known region has changed at most, and how visible its border is."""
    references = np.repeat(np.stack([target.image for target in bench.targets]), bench.sizes.images, axis=0)
    return {
        "known": likeness.largest_change(images, references, bench.kept),
        "seam": likeness.seam(images, bench.kept),
    }


def _learn(bench: Bench, learner: Learner) -> Path:
    """Returns the file of the weights that are learned on the first target's change, from noise of its own."""
    target = bench.targets[0]
    options = {**bench.options(target, ""), "seed": bench.seed + LEARNING_SEED}
    weights = learner(bench.generator, target.prompt, target.changed, options)
    file = bench.mask.with_name("weights.json")
    file.write_text(json.dumps([float(weight) for weight in weights]))
    return file


def _real(bench: Bench) -> Figures:
    """Returns the figures that have a like in real pictures: their Frechet distance, and the seam of the references."""
    features = bench.yardstick.judge.judge(bench.rest.images).features
    references = np.stack([target.image for target in bench.targets])
    return {
        "count": len(features),
        "frechet": bench.yardstick.frechet(features) if len(features) > 1 else None,
        "seam": likeness.seam(references, bench.kept),
    }


def _gallery_record(bench: Bench) -> dict[str, Any]:
    others, targets = bench.yardstick.others, bench.targets
    return {
        "pictures": len(others),
        "captions": len(set(others.captions)),
        "targets": [
            {"caption": one.caption, "labels": dict(one.labels), "prompt": one.prompt, "changed": one.changed}
            for one in targets
        ],
        "images": bench.sizes.images,
        "attributes": {name: name for name in targets[0].labels},
        "hand": hand_of(list(targets[0].labels)),
    }


def _alone(bench: Bench, progress: Progress) -> dict[str, Any]:
    """Returns the figures of what CLIP alone draws for the targets' captions."""
    images, count = [], bench.sizes.images
    for done, target in enumerate(bench.targets, 1):
        seed = bench.options(target, FREE)["seed"]
        images.append(ascend(bench.generator, target.caption, count, bench.sizes.ascent, seed))
        progress("CLIP alone", done * count, len(bench.targets) * count)
    seen = bench.yardstick.look(np.concatenate(images))
    return bench.yardstick.figures(seen, [of_caption(target) for target in bench.targets])


def _samplers(bench: Bench, progress: Progress) -> dict[str, Any]:
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

        images = bench.draw(_prompt_of(""), "", report, sampler=sampler, steps=steps, seed=seed)
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
