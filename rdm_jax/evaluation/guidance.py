"""Whether guidance has its expected effects: each method against the run without it, from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rdm_jax.conditioning import Switch
from rdm_jax.core import files
from rdm_jax.core.errors import UserError, some
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.editing.mixing import KEPT_AT_FIRST, learn
from rdm_jax.evaluation import few_steps, similarity
from rdm_jax.evaluation.bench import Bench
from rdm_jax.evaluation.clip_only import ascend
from rdm_jax.evaluation.gallery import Target, style_attribute
from rdm_jax.evaluation.measures import EncodedImages, Measures, interval_of
from rdm_jax.evaluation.methods import (
    FREE,
    LESS,
    METHODS,
    MORE,
    NONE,
    OWN,
    Effect,
    Method,
    of_caption,
    with_style,
)
from rdm_jax.generator import Generator

Learner = Callable[[Generator, str, str, Mapping[str, Any]], Sequence[float]]
"""From (generator, prompt, changed prompt, options of `Generator.plan`) to the weights of the prompt, one for each
step, as the condition `mix` takes them. They are measured on other seeds and prompts than they are learned on."""

LEARNING_SEED = 500_000


def learned_mixing(generator: Generator, prompt: str, changed: str, options: Mapping[str, Any]) -> list[float]:
    """Returns the weights that a few updates learn (https://arxiv.org/abs/2212.08698), a `Learner`."""
    plan = generator.plan(prompt, conditions=[Switch(prompt=changed, after=KEPT_AT_FIRST)], **options)
    return learn(generator, plan).weights.tolist()


def measure(
    bench: Bench,
    progress: StageProgressCallback,
    methods: Sequence[Method] = METHODS,
    learner: Learner = learned_mixing,
) -> tuple[dict[str, Any], dict[str, dict[str, EncodedImages]]]:
    """Generates and measures the images of all methods.

    Args:
      bench: from `open_bench`.
      progress: called with (stage, done, total).
      methods: to measure.
      learner: of the weights of disentangled editing.

    Returns:
      the results as JSON values, and for each method the images "unguided" and "guided".
    """
    lacking = {method.name: _lacks(method, bench) for method in methods}
    ready = [method for method in methods if not lacking[method.name]]
    if not ready:
        raise UserError(
            "nothing can be measured: " + some((f"{name}: {why}" for name, why in lacking.items()), len(METHODS))
        )
    count = len(bench.targets) * bench.sizes.images
    sets = sum(len(_weights(method, bench)) + bool(method.outright) for method in ready)
    total = (sets + len({method.base for method in ready})) * count
    done = 0

    def report(now: int) -> None:
        """Reports the progress over all sets."""
        nonlocal done
        progress("generating samples", done + now, total)
        done += now if now == count else 0

    controls = {base: bench.metrics.encode(_control(bench, base, report)) for base in {m.base for m in ready}}
    results: dict[str, Any] = {}
    shown: dict[str, dict[str, EncodedImages]] = {}
    for method in methods:
        if lacking[method.name]:
            results[method.name] = {"title": method.title, "left_out": lacking[method.name]}
            continue
        results[method.name], shown[method.name] = _method(bench, method, controls[method.base], report, learner)
    return {
        "gallery": _gallery_record(bench),
        "real": _real(bench),
        "methods": results,
        "alone": _alone(bench, progress),
        "samplers": few_steps.compare(bench, progress),
    }, shown


def _lacks(method: Method, bench: Bench) -> str:
    """Returns why a method cannot be measured, "" if it can be."""
    bundle = bench.generator.bundle
    why = method.lacks(bundle.has, bench.targets)
    if not why and "noised_classifier" in method.needs:
        attribute = style_attribute(list(bench.targets[0].labels))
        known = bundle.config["noised_classifier"]["classes"].get(attribute, ())
        why = "" if all(target.style in known for target in bench.targets) else "the classifier knows other styles"
    return why


def _weights(method: Method, bench: Bench) -> tuple[float, ...]:
    return method.weights if bench.sizes.sweep else (method.weight,)


def _prompt_of(base: str) -> Callable[[Target], str]:
    return (lambda target: target.caption) if base == OWN else (lambda target: target.prompt)


def _control(bench: Bench, base: str, report: Callable[[int], None]) -> UInt8[np.ndarray, "n h w 3"]:
    return bench.generate(_prompt_of(base), base, report)


def _method(
    bench: Bench, method: Method, control: EncodedImages, report: Callable[[int], None], learner: Learner
) -> tuple[dict[str, Any], dict[str, EncodedImages]]:
    """Returns the results of a method, and the images without and with it."""
    encode, targets = bench.metrics.encode, bench.targets
    wanted = [method.wanted(target) for target in targets]
    masked = "mask" in method.reads
    plain = encode(_pasted(bench, control.images)) if masked else control

    def measured(encoded: EncodedImages) -> Measures:
        """Returns the measures of a set, those of regions among them if there is a mask."""
        measures = bench.metrics.measure(encoded, wanted, control)
        return {**measures, **(_regions(bench, encoded.images) if masked else {})}

    rows = [{"what": "pasted, unguided" if masked else "unguided", **measured(plain)}]
    if method.outright:
        prompt = with_style if method.outright == "style" else (lambda target: target.changed)
        images = bench.generate(prompt, method.base, report)
        rows.append({"what": "in the prompt", **measured(encode(images))})
    learned = _learn(bench, learner) if "learned" in method.reads else Path()
    guided = plain
    for weight in _weights(method, bench):
        options = bench.options_of(method, weight, learned)
        encoded = encode(bench.generate(_prompt_of(method.base), method.base, report, **options))
        what = f"{method.symbol} {weight:g}" if len(method.weights) > 1 else "guided"
        rows.append({"what": what, "weight": weight, **measured(encoded)})
        guided = encoded if weight == method.weight else guided
    chosen = next(row for row in rows if row.get("weight") == method.weight)
    return {
        "title": method.title,
        "base": method.base,
        "weight": method.weight,
        "measures": list(method.measures),
        "rows": rows,
        "effects": [
            found for effect in method.effects if (found := observed(effect, rows[effect.versus_prompt], chosen))
        ],
    }, {"unguided": plain, "guided": guided}


def observed(effect: Effect, without: Mapping[str, Any], with_: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns whether an expected effect is observed: "yes", "no", or "within noise" if the intervals overlap.

    A measure is the SAME if its interval with guidance reaches that without. None if there is no such measure.
    """
    before, after = interval_of(without, effect.measure), interval_of(with_, effect.measure)
    if before is None or after is None:
        return None
    (middle, low, high), (now, now_low, now_high) = before, after
    if effect.direction == MORE:
        answer = "yes" if now_low > high else "within noise" if now > middle else "no"
    elif effect.direction == NONE:
        answer = "yes" if now == 0 else "no"
    elif effect.direction == LESS:
        answer = "yes" if now_high < low else "within noise" if now < middle else "no"
    else:
        answer = "yes" if now_high >= low else "no"
    direction = effect.direction + (" than in the prompt" if effect.versus_prompt else "")
    values = {"without": without[effect.measure], "with": with_[effect.measure]}
    return {"measure": effect.measure, "direction": direction, **values, "observed": answer}


def _pasted(bench: Bench, images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns images with the known region of the references pasted: the baseline of inpainting."""
    references = np.repeat(np.stack([target.image for target in bench.targets]), bench.sizes.images, axis=0)
    return np.where(bench.kept[None, :, :, None], references, images)


def _regions(bench: Bench, images: UInt8[np.ndarray, "n h w 3"]) -> Measures:
    """Returns the largest change of the known region, and how visible its border is."""
    references = np.repeat(np.stack([target.image for target in bench.targets]), bench.sizes.images, axis=0)
    return {
        "known": similarity.largest_change(images, references, bench.kept),
        "seam": similarity.seam(images, bench.kept),
    }


def _learn(bench: Bench, learner: Learner) -> Path:
    """Returns the file of the weights that are learned on the first target's change, from its own noise."""
    target = bench.targets[0]
    options = {**bench.options(target, ""), "seed": bench.seed + LEARNING_SEED}
    weights = learner(bench.generator, target.prompt, target.changed, options)
    file = bench.mask.with_name("weights.json")
    files.write_json(file, [float(weight) for weight in weights])
    return file


def _real(bench: Bench) -> Measures:
    """Returns the measures that real images have too: their Frechet distance, and the seam of the references."""
    features = bench.metrics.classifier.classify(bench.rest.images).features
    references = np.stack([target.image for target in bench.targets])
    return {
        "count": len(features),
        "frechet": bench.metrics.frechet(features) if len(features) > 1 else None,
        "seam": similarity.seam(references, bench.kept),
    }


def _gallery_record(bench: Bench) -> dict[str, Any]:
    others, targets = bench.metrics.others, bench.targets
    return {
        "gallery_images": len(others),
        "captions": len(set(others.captions)),
        "targets": [
            {"caption": t.caption, "labels": dict(t.labels), "prompt": t.prompt, "changed": t.changed} for t in targets
        ],
        "images": bench.sizes.images,
        "attributes": {name: name for name in targets[0].labels},
        "style": style_attribute(list(targets[0].labels)),
    }


def _alone(bench: Bench, progress: StageProgressCallback) -> dict[str, Any]:
    """Returns the measures of the images of CLIP alone for the targets' captions."""
    images, count = [], bench.sizes.images
    for done, target in enumerate(bench.targets, 1):
        seed = bench.options(target, FREE)["seed"]
        images.append(ascend(bench.generator, target.caption, count, bench.sizes.ascent, seed))
        progress("CLIP alone", done * count, len(bench.targets) * count)
    encoded = bench.metrics.encode(np.concatenate(images))
    return bench.metrics.measure(encoded, [of_caption(target) for target in bench.targets])
