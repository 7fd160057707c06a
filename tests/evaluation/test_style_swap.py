import json

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.style_scenes.scene import draw
from rdm_jax.data.style_scenes.vocabulary import MONOCHROME, STYLES, Scene
from rdm_jax.evaluation.arms import ARMS
from rdm_jax.evaluation.comparisons import pairs_within
from rdm_jax.evaluation.generation import Generated
from rdm_jax.evaluation.classifiers import EMBEDDED, AttributeClassifier
from rdm_jax.evaluation.style_swap import Sizes, generate_arms, measure, spread_indices

SIZES = Sizes(first=244, least=60, real=288, reconstructed=60)


def quiet(*_):
    pass


def test_a_perfect_artist_has_every_share_at_one(fakes):
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
    asked = first.labels
    wrong = sum(position % 10 == 3 and labels["style"] != "poster" for position, labels in enumerate(asked))
    assert results["arms"]["style_database"]["style"]["hits"] == 244 - wrong
    assert results["arms"]["style_database"]["subject"]["hits"] == 244
    colored = [labels for labels in asked if labels["style"] not in MONOCHROME]
    colour = results["arms"]["style_database"]["colour"]
    assert colour["count"] == len(colored) < 244
    assert colour["hits"] == sum(labels["subject"] != "boat" or labels["colour"] == "red" for labels in colored)
    by_subject = results["arms"]["style_database"]["by_subject"]
    assert by_subject["boat"]["colour"]["rate"] < 0.5 and by_subject["cat"]["colour"]["rate"] == 1.0
    assert sum(of["style"]["count"] for of in results["arms"]["style_database"]["by_style"].values()) == 244
    assert "autoencoder" not in results


def test_targets_that_are_missed_are_told(fakes):
    results, _ = measure(
        fakes.cell_generator(lambda _, labels: {**labels, "style": "neon"}), None, fakes.classifier, SIZES, quiet, arms=ARMS[:1]
    )
    assert results["arms"]["style_database"]["met"] == {"style": False, "subject": True, "colour": True}
    assert results["arms"]["style_database"]["by_style"]["neon"]["style"]["rate"] == 1.0
    assert results["arms"]["style_database"]["named"]["style"] == {"neon": 244}


def test_one_who_copies_is_found_out(fakes):
    honest, _ = measure(fakes.cell_generator(), None, fakes.classifier, SIZES, quiet, arms=ARMS[:1])
    copying, _ = measure(fakes.cell_generator(copying=True), None, fakes.classifier, SIZES, quiet, arms=ARMS[:1])
    assert copying["copies"]["rmse"]["nearest"] == 0 and copying["copies"]["nearer_than_real"]["rate"] == 1.0
    assert copying["copies"]["cosine"]["median"] == pytest.approx(1.0)
    assert honest["copies"]["nearer_than_real"]["rate"] < 0.1
    assert honest["copies"]["rmse"]["median"] == pytest.approx(honest["copies"]["real_rmse"]["median"], rel=0.05)
    assert copying["diversity"]["samples"]["pixel"] < honest["diversity"]["samples"]["pixel"] * 1.2


def test_samples_like_real_pictures_are_as_far_from_them_as_others_are(fakes):
    results, _ = measure(fakes.cell_generator(), None, fakes.classifier, SIZES, quiet, arms=ARMS[:1])
    frechet = results["frechet"]
    assert frechet["count"] == 244
    assert frechet["samples"] == pytest.approx(frechet["real"], rel=0.3)
    assert results["diversity"]["samples"]["pixel"] == pytest.approx(results["diversity"]["real"]["pixel"], rel=0.05)


def test_progress_counts_the_samples_of_all_arms(fakes):
    told = []
    measure(fakes.cell_generator(), None, fakes.classifier, SIZES, lambda *at: told.append(at))
    samples = [(done, total) for what, done, total in told if what == "drawing samples"]
    total = 244 + 60 * (len(ARMS) - 1)
    assert samples == [(done, total) for done in range(1, total + 1)]


def test_a_judge_that_lacks_a_class_is_refused(fakes):
    fakes.classifier.bundle.config["classifier"] = {"classes": {"subject": ["cat"], "style": ["neon"], "colour": ["red"]}}
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
    """Draws real images of what it is asked for."""

    def generate(self, cells, progress):
        scenes = [Scene(cell.subject, cell.colour, "grey", cell.style) for cell in cells]
        images = [draw(scene, np.random.default_rng([5, i])) for i, scene in enumerate(scenes)]
        return Generated(np.stack(images), [[] for _ in cells])

    def thumbnails(self, database):
        raise AssertionError("nothing is compared here")


@pytest.mark.skipif(not EMBEDDED.is_dir(), reason="no classifier ships with this copy")
def test_real_pictures_as_samples_score_as_the_judge_does():
    classifier = AttributeClassifier.open()
    classified = generate_arms(Painter(), classifier, Sizes(first=240), ARMS[:1], quiet)["style_database"]
    shares = classifier.proportions(classified.classification, classified.labels)
    assert all(share.rate > 0.96 for share in shares.values())
