"""Every guidance method is measured and reported with a tiny random model; effects are observed by intervals."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.core.vectors import unit
from rdm_jax.evaluation import guidance, guidance_report
from rdm_jax.evaluation.bench import Sizes, open_bench
from rdm_jax.evaluation.classifiers import AttributeClassifier
from rdm_jax.evaluation.clip_only import ascend
from rdm_jax.evaluation.gallery import is_named
from rdm_jax.evaluation.measures import interval_of
from rdm_jax.evaluation.methods import LESS, METHODS, MORE, NONE, SAME, Effect
from rdm_jax.evaluation.similarity import gram_distances
from rdm_jax.evaluation.statistics import Proportion
from rdm_jax.generator import Generator
from rdm_jax.retrieval.database import Database
from tests.helpers import guided

SIZES = Sizes(targets=3, images=2, others=10, steps=2, ascent=5, few_steps=2, reference_steps=2, sweep=False)
# One of each kind: of x_t, a hook whose weight is no weight, one with a mask, two conditions.
SOME = [method for method in METHODS if method.name in ("language", "ilvr", "inpaint", "switch", "mix")]


@pytest.fixture(scope="module")
def generator():
    return Generator.load(guided.bundle(condition="text+neighbors"))


@pytest.fixture(scope="module")
def bench(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    database = Database.open(guided.database(folder, "general", generator.bundle))
    return open_bench(generator, [database], AttributeClassifier(guided.classifier(guided.CLASSES)), SIZES, folder)


@pytest.fixture(scope="module")
def measured(bench):
    """The results, the images, the arguments of the learner and the calls of progress."""
    learned, calls = [], []

    def learner(generator, prompt, changed, options):
        learned.append((prompt, changed, options["seed"]))
        return [0.0, 1.0]  # the second of two steps of DDIM is next to the image

    results, shown = guidance.measure(bench, lambda *at: calls.append(at), SOME, learner=learner)
    return results, shown, learned, calls


@pytest.mark.slow
def test_methods_are_measured_beside_the_same_noise_without_them(bench, measured):
    results, shown, _, _ = measured
    assert list(results["methods"]) == list(shown) == [method.name for method in SOME]
    count = SIZES.targets * SIZES.images
    for method in SOME:
        found = results["methods"][method.name]
        rows = found["rows"]
        assert "unguided" in rows[0]["what"] and rows[-1]["weight"] == method.weight
        assert rows[0]["image@10"]["count"] == count and rows[0]["frechet"] > 0
        assert {effect["measure"] for effect in found["effects"]} == {effect.measure for effect in method.effects}
        assert (shown[method.name]["guided"].images != shown[method.name]["unguided"].images).any()
    json.dumps(results, allow_nan=False)
    switched = {row["what"] for row in results["methods"]["switch"]["rows"]}
    assert "in the prompt" in switched
    same = shown["language"]["unguided"].images == shown["ilvr"]["unguided"].images
    assert same.all() and (shown["switch"]["unguided"].images != shown["ilvr"]["unguided"].images).any()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_has_the_guide_or_the_condition_that_it_names(bench, method, tmp_path):
    learned = tmp_path / "weights.json"
    learned.write_text("[1.0, 0.0]")
    target = bench.targets[1]
    for weight in method.weights:
        made = {name: option(target) for name, option in bench.options_of(method, weight, learned).items()}
        plan = bench.generator.plan(target.prompt, **bench.options(target, method.base), **made)
        expected = (1, 0) if method.guide else (0, 1)
        assert (len(plan.run.guides), len(plan.request.conditions)) == expected
        (made,) = (*made["guides"], *made["conditions"])
        assert method.symbol not in vars(made) or len(method.weights) == 1 or getattr(made, method.symbol) == weight


@pytest.mark.slow
def test_what_must_hold_for_any_model_holds(bench, measured):
    methods = measured[0]["methods"]
    assert methods["inpaint"]["rows"][-1]["known"] == 0
    row = methods["switch"]["rows"][0]
    assert row["moved"]["mean"] == 0 and row["moved_pixels"]["mean"] == 0
    samplers = measured[0]["samplers"]
    assert (
        len(samplers["rows"]) == 4 and samplers["rows"][0]["distance"] is None and isinstance(samplers["reached"], bool)
    )


@pytest.mark.slow
def test_weights_are_learned_once_on_a_seed_of_their_own(bench, measured):
    learned = measured[2]
    assert len(learned) == 1 and learned[0][:2] == (bench.targets[0].prompt, bench.targets[0].changed)
    generated = {bench.options(target, "")["seed"] for target in bench.targets}
    assert len(generated) == SIZES.targets and learned[0][2] not in generated


@pytest.mark.slow
def test_progress_counts_every_image_to_its_end(measured):
    for stage in ("generating samples", "CLIP alone", "comparing samplers"):
        calls = [(done, total) for what, done, total in measured[3] if what == stage]
        assert calls == sorted(calls) and calls[-1][0] == calls[-1][1]


@pytest.mark.slow
def test_the_report_has_every_table_and_the_images(bench, measured):
    results, shown, _, _ = measured
    text = guidance_report.markdown(results, "Guidance of tiny")
    for method in SOME:
        assert f"## {method.title}\n" in text
    assert "| ILVR | " in text and "| CLIP alone, text | " in text and "reach" in text
    assert guidance_report.sampler_conclusion(results) in guidance_report.screen(results)
    generated = guidance_report.curves(results)
    assert generated is not None and generated.shape[2] == 3
    grid = guidance_report.grid(bench.targets, SIZES.images, shown, results)
    assert grid.shape[0] > 32 * len(SOME) and grid.shape[1] > 32 * 9


@pytest.mark.slow
def test_what_is_missing_is_left_out_with_the_reason(generator, tmp_path):
    # The same programs without the noised networks.
    config, params = (
        {part: value for part, value in tree.items() if not part.startswith("noised")}
        for tree in (generator.bundle.config, generator.bundle.params)
    )
    bundle = dataclasses.replace(generator.bundle, config=config, params=params)
    plain = dataclasses.replace(generator, model=dataclasses.replace(generator.model, bundle=bundle))
    databases = [Database.open(guided.database(tmp_path, name, plain.bundle, labelled=False)) for name in ("a", "bc")]
    classifier = AttributeClassifier(guided.classifier({"folder": ["a", "bc"]}))
    bench = open_bench(plain, databases, classifier, SIZES, tmp_path)
    assert {target.labels["folder"] for target in bench.targets} == {"a", "bc"}
    methods = [method for method in METHODS if method.name in ("style", "clip", "ilvr", "switch")]
    results, shown = guidance.measure(bench, lambda *at: None, methods)
    assert list(shown) == ["ilvr"]
    reasons = {name: found.get("left_out", "") for name, found in results["methods"].items()}
    assert "no noised_clip" in reasons["style"] and "no caption names a style" in reasons["clip"]
    assert "no caption names a class" in reasons["switch"] and not reasons["ilvr"]
    assert "left out: " in guidance_report.markdown(results, "title")
    with pytest.raises(UserError, match="nothing can be measured: style"):
        guidance.measure(bench, lambda *at: None, methods[:1])


@pytest.mark.parametrize(
    ("direction", "without", "with_", "answer"),
    [
        (MORE, (5, 100), (60, 100), "yes"),
        (MORE, (5, 10), (6, 10), "within noise"),
        (MORE, (6, 10), (5, 10), "no"),
        (LESS, (60, 100), (5, 100), "yes"),
        (LESS, (6, 10), (5, 10), "within noise"),
        (SAME, (99, 100), (97, 100), "yes"),
        (SAME, (99, 100), (60, 100), "no"),
        (NONE, (1, 100), (0, 100), "yes"),
        (NONE, (1, 100), (1, 100), "no"),
    ],
)
def test_an_effect_is_observed_by_its_intervals(direction, without, with_, answer):
    rows = [{"rate": Proportion(*hits).to_json()} for hits in (without, with_)]
    found = guidance.observed(Effect("rate", direction), *rows)
    assert found is not None and found["observed"] == answer
    assert guidance.observed(Effect("other", direction), *rows) is None


def test_a_measure_has_an_interval():
    assert interval_of({"a": 3}, "a") == (3.0, 3.0, 3.0)
    assert interval_of({"a": {"mean": 2.0, "low": None, "high": None, "count": 1}}, "a") == (2.0, 2.0, 2.0)
    assert interval_of({"a": None}, "a") is None and interval_of({}, "a") is None


@pytest.mark.slow
def test_clip_alone_comes_nearer_to_its_text(generator):
    target = unit(generator.encoder.encode_texts(["a red boat"]))

    def nearness(steps):
        images = ascend(generator, "a red boat", 2, steps, seed=3)
        return float((unit(generator.encoder.encode_images(images)) @ target.T).mean())

    assert nearness(150) > nearness(5) + 0.05


def test_gram_matrices_depend_on_textures_and_not_on_positions(bench):
    classifier = bench.metrics.classifier
    noise = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    images = np.stack([noise[0], np.roll(noise[0], 4, axis=1), noise[1] // 4])
    grams = classifier.grams(images)
    assert all((gram == np.swapaxes(gram, 1, 2)).all() or np.allclose(gram, np.swapaxes(gram, 1, 2)) for gram in grams)
    first = [np.repeat(gram[:1], 3, axis=0) for gram in grams]
    itself, moved, other = gram_distances(grams, first)
    assert itself == 0 and moved < other


def test_targets_are_spread_and_prompts_name_no_style(bench):
    for target in bench.targets:
        assert not any(is_named(target.prompt, style) for style in guided.CLASSES["style"])
        assert target.changed != target.prompt
