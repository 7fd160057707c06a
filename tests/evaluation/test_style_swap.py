import json

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.style_scenes.builder import image_of
from rdm_jax.data.style_scenes.vocabulary import GROUNDS, MONOCHROME, STYLES
from rdm_jax.evaluation.arms import ARMS
from rdm_jax.evaluation.classifiers import EMBEDDED, AttributeClassifier
from rdm_jax.evaluation.comparisons import pairs_within
from rdm_jax.evaluation.generation import Generated
from rdm_jax.evaluation.style_swap import Sizes, generate_arms, measure, spread_indices

SIZES = Sizes(first=244, least=60, real=288, reconstructed=60)


def quiet(*_):
    pass


def test_a_perfect_generator_has_every_rate_at_one(fakes):
    results, classified = measure(fakes.cell_generator(), lambda images: images, fakes.classifier, SIZES, quiet)
    for arm in results["arms"].values():
        assert arm["style"]["rate"] == arm["subject"]["rate"] == arm["colour"]["rate"] == 1.0
        assert all(arm["met"].values())
        assert arm["neighbors"]["style"]["rate"] == 1.0 and arm["neighbors"]["colour"]["rate"] == 0.5
    assert [len(one.cells) for one in classified.values()] == [244, *[60] * (len(ARMS) - 1)]
    assert results["every_pair"]["style"] == {"rate": 1.0, "pairs": 144}
    assert results["autoencoder"]["psnr"] == 99.0 and all(results["autoencoder"]["met"].values())
    assert set(results["autoencoder"]["by_style"]) <= set(STYLES)
    json.dumps(results, allow_nan=False)


def test_errors_are_counted_where_they_are_made(fakes):
    def change(position, labels):
        labels = {**labels, "style": "poster"} if position % 10 == 3 else labels
        return {**labels, "colour": "red"} if labels["subject"] == "boat" else labels

    results, classified = measure(fakes.cell_generator(change), None, fakes.classifier, SIZES, quiet)
    first = classified["style_database"]
    wanted = first.labels
    wrong = sum(position % 10 == 3 and labels["style"] != "poster" for position, labels in enumerate(wanted))
    assert results["arms"]["style_database"]["style"]["hits"] == 244 - wrong
    assert results["arms"]["style_database"]["subject"]["hits"] == 244
    colored = [labels for labels in wanted if labels["style"] not in MONOCHROME]
    color = results["arms"]["style_database"]["colour"]
    assert color["count"] == len(colored) < 244
    assert color["hits"] == sum(labels["subject"] != "boat" or labels["colour"] == "red" for labels in colored)
    by_subject = results["arms"]["style_database"]["by_subject"]
    assert by_subject["boat"]["colour"]["rate"] < 0.5 and by_subject["cat"]["colour"]["rate"] == 1.0
    assert sum(of["style"]["count"] for of in results["arms"]["style_database"]["by_style"].values()) == 244
    assert "autoencoder" not in results


def test_missed_targets_are_reported(fakes):
    results, _ = measure(
        fakes.cell_generator(lambda _, labels: {**labels, "style": "neon"}),
        None,
        fakes.classifier,
        SIZES,
        quiet,
        arms=ARMS[:1],
    )
    assert results["arms"]["style_database"]["met"] == {"style": False, "subject": True, "colour": True}
    assert results["arms"]["style_database"]["by_style"]["neon"]["style"]["rate"] == 1.0
    assert results["arms"]["style_database"]["named"]["style"] == {"neon": 244}


def test_copies_are_detected(fakes):
    honest, _ = measure(fakes.cell_generator(), None, fakes.classifier, SIZES, quiet, arms=ARMS[:1])
    copying, _ = measure(fakes.cell_generator(copying=True), None, fakes.classifier, SIZES, quiet, arms=ARMS[:1])
    assert copying["copies"]["rmse"]["nearest"] == 0 and copying["copies"]["nearer_than_real"]["rate"] == 1.0
    assert copying["copies"]["cosine"]["median"] == pytest.approx(1.0)
    assert honest["copies"]["nearer_than_real"]["rate"] < 0.1
    assert honest["copies"]["rmse"]["median"] == pytest.approx(honest["copies"]["real_rmse"]["median"], rel=0.05)
    assert copying["diversity"]["samples"]["pixel"] < honest["diversity"]["samples"]["pixel"] * 1.2


def test_samples_like_real_images_are_as_far_from_them_as_other_real_images(fakes):
    results, _ = measure(fakes.cell_generator(), None, fakes.classifier, SIZES, quiet, arms=ARMS[:1])
    frechet = results["frechet"]
    assert frechet["count"] == 244
    assert frechet["samples"] == pytest.approx(frechet["real"], rel=0.3)
    assert results["diversity"]["samples"]["pixel"] == pytest.approx(results["diversity"]["real"]["pixel"], rel=0.05)


def test_progress_counts_the_samples_of_all_arms(fakes):
    calls = []
    measure(fakes.cell_generator(), None, fakes.classifier, SIZES, lambda *at: calls.append(at))
    samples = [(done, total) for what, done, total in calls if what == "generating samples"]
    total = 244 + 60 * (len(ARMS) - 1)
    assert samples == [(done, total) for done in range(1, total + 1)]


def test_a_classifier_that_lacks_a_class_is_refused(fakes):
    fakes.classifier.bundle.config["classifier"] = {
        "classes": {"subject": ["cat"], "style": ["neon"], "colour": ["red"]}
    }
    with pytest.raises(UserError, match="does not know the subject boat"):
        measure(fakes.cell_generator(), None, fakes.classifier, SIZES, quiet)


def test_indices_go_through_each_cycle_once():
    indices = spread_indices(2_304 + 100)
    assert sorted(indices[:1_152]) == list(range(1_152))
    assert sorted(indices[1_152:2_304]) == list(range(1_152, 2_304))
    assert len(set(indices)) == 2_404
    assert len({index // 144 for index in indices[:40]}) == 8


def test_pairs_within_groups():
    assert pairs_within("abacb") == [(0, 2), (1, 4)]
    assert pairs_within([]) == []


class Painter:
    """Generates real images of the requested labels."""

    def generate(self, cells, progress):
        labels = [
            {"subject": c.subject, "colour": c.colour, "ground": next(iter(GROUNDS)), "style": c.style} for c in cells
        ]
        images = [image_of(one, np.random.default_rng([5, i])) for i, one in enumerate(labels)]
        return Generated(np.stack(images), [[] for _ in cells])

    def thumbnails(self, database):
        raise AssertionError("nothing is compared here")


@pytest.mark.slow
@pytest.mark.skipif(not EMBEDDED.is_dir(), reason="no classifier ships with this copy")
def test_real_images_as_samples_score_like_the_classifier():
    classifier = AttributeClassifier.open()
    classified = generate_arms(Painter(), classifier, Sizes(first=240), ARMS[:1], quiet)["style_database"]
    proportions = classifier.proportions(classified.classification, classified.labels)
    assert all(proportion.rate > 0.96 for proportion in proportions.values())
