"""Whether guidance does what it promises: each method against the run without it, from the same noise."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rdm_jax.conditioning import Switch
from rdm_jax.core.errors import UserError
from rdm_jax.editing.mixing import KEPT_AT_FIRST, learn
from rdm_jax.evaluation import few_steps, likeness
from rdm_jax.evaluation.bench import Bench, Progress
from rdm_jax.evaluation.clip_only import ascend
from rdm_jax.evaluation.gallery import Target, hand_of
from rdm_jax.evaluation.methods import (
    FREE,
    LESS,
    METHODS,
    MORE,
    NONE,
    OWN,
    Method,
    Promise,
    of_caption,
    words,
)
from rdm_jax.evaluation.seen import Figures, Seen, figure
from rdm_jax.generator import Generator

Learner = Callable[[Generator, str, str, Mapping[str, Any]], Sequence[float]]
"""(generator, prompt, changed prompt, options of `Generator.plan`) to the weights of the prompt, one for each step, as
the condition `mix` takes them. They are measured on other seeds and other prompts than they are learned on."""

LEARNING_SEED = 500_000


def learned_mixing(generator: Generator, prompt: str, changed: str, options: Mapping[str, Any]) -> list[float]:
    """Returns the weights that a few updates learn (https://arxiv.org/abs/2212.08698), a `Learner`."""
    plan = generator.plan(prompt, conditions=[Switch(prompt=changed, after=KEPT_AT_FIRST)], **options)
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
        "samplers": few_steps.compare(bench, progress),
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
    masked = "mask" in method.reads
    plain = look(_pasted(bench, control.images)) if masked else control
    figures = functools.partial(bench.yardstick.figures, wanted=wanted, plain=control)

    def told(seen: Seen) -> Figures:
        """Returns the figures of a set, those of regions among them where there is a mask."""
        return {**figures(seen), **(_regions(bench, seen.images) if masked else {})}

    rows = [{"what": "pasted, unguided" if masked else "unguided", **told(plain)}]
    if method.outright:
        prompt = words if method.outright == "hand" else (lambda target: target.changed)
        rows.append({"what": "asked in words", **told(look(bench.draw(prompt, method.base, report)))})
    learned = _learn(bench, learner) if "learned" in method.reads else Path()
    guided = plain
    for weight in _weights(method, bench):
        asked = bench.options_of(method, weight, learned)
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
        "promises": [found for one in method.promises if (found := kept(one, rows[one.of_words], chosen))],
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
    direction = promise.direction + (" than in words" if promise.of_words else "")
    told = {"figure": promise.figure, "direction": direction}
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
