import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.data.style_scenes.vocabulary import STYLES, SUBJECTS
from rdm_jax.evaluation.classifiers import BATCH, AttributeClassifier, Classification, real_images, real_images_like
from rdm_jax.models.classifier import build_classifier

SETTINGS = {
    "classes": {"subject": ["cat", "sun"], "colour": ["red", "blue"]},
    "stem": [4],
    "widths": [8],
    "num_groups": 2,
}


@pytest.fixture(scope="module")
def classifier():
    module = build_classifier(SETTINGS)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape, np.float32), shapes)
    config = {"name": "tiny", "classifier": SETTINGS, "evaluation": {"unseen": {"colour": {"style": ["charcoal"]}}}}
    return AttributeClassifier(Bundle(config, {"classifier": params}))


def test_a_classifier_names_the_most_likely_classes(classifier):
    images = np.random.default_rng(1).integers(0, 256, (BATCH + 3, 16, 16, 3), dtype=np.uint8)
    calls = []
    classification = classifier.classify(images, lambda *at: calls.append(at))
    module = build_classifier(SETTINGS)
    x = jnp.asarray(images, jnp.float32) / 127.5 - 1.0
    variables = {"params": jax.tree.map(jnp.asarray, classifier.bundle.params["classifier"])}
    logits = module.apply(variables, x)
    for name, values in logits.items():
        assert classification.named[name] == [SETTINGS["classes"][name][i] for i in np.asarray(values).argmax(-1)]
    expected = module.apply(variables, x, method="features")
    np.testing.assert_allclose(classification.features, expected, rtol=1e-3, atol=1e-3)
    assert calls == [(BATCH, BATCH + 3), (BATCH + 3, BATCH + 3)]


def test_proportions_leave_out_what_is_invisible(classifier):
    classification = Classification(
        {"subject": ["cat", "cat", "sun"], "colour": ["red", "red", "blue"]}, np.zeros((3, 1), np.float32)
    )
    wanted = [
        {"subject": "cat", "colour": "red", "style": "neon"},
        {"subject": "sun", "colour": "blue", "style": "charcoal"},
        {"subject": "sun", "colour": "red", "style": "neon"},
    ]
    proportions = classifier.proportions(classification, wanted)
    assert (proportions["subject"].hits, proportions["subject"].count) == (2, 3)
    assert (proportions["colour"].hits, proportions["colour"].count) == (1, 2)


def test_a_classifier_without_a_class_is_refused(classifier):
    classifier.require({"subject": ["cat"]})
    with pytest.raises(UserError, match="classifier 'tiny' does not know the style neon"):
        classifier.require({"style": ["neon"]})


def test_a_bundle_without_a_classifier_is_no_classifier(tmp_path):
    Bundle({"name": "empty"}, {}).save(tmp_path / "empty")
    with pytest.raises(UserError, match="has no classifier"):
        AttributeClassifier.open(tmp_path / "empty")


def test_a_saved_classifier_classifies_alike(classifier, tmp_path):
    classifier.bundle.save(tmp_path / "classifier", "float32")
    images = np.random.default_rng(2).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    again = AttributeClassifier.open(tmp_path / "classifier")
    assert again.classify(images).named == classifier.classify(images).named
    assert not again.is_visible({"style": "charcoal"}, "colour") and again.is_visible({"style": "charcoal"}, "subject")


def test_real_images_are_deterministic_and_balanced():
    first = real_images("test", range(12, 24))
    assert {labels["style"] for labels in first.labels} == set(STYLES)
    assert {labels["subject"] for labels in first.labels} == {SUBJECTS[1]}
    np.testing.assert_array_equal(first.images[3], real_images("test", [15]).images[0])


def test_real_images_of_the_same_labels_differ():
    real = real_images("test", range(6))
    same = real_images_like(real.labels, 1)
    assert same.labels == real.labels
    assert all((a != b).any() for a, b in zip(same.images, real.images, strict=True))
    np.testing.assert_array_equal(real_images_like(real.labels, 1).images, same.images)
    assert (real_images_like(real.labels, 2).images != same.images).any()
    words = [{name: labels[name] for name in ("subject", "colour", "style")} for labels in real.labels]
    free = real_images_like(words, 1)
    assert [{**labels, "ground": ""} for labels in free.labels] == [{**labels, "ground": ""} for labels in real.labels]
    assert len({labels["ground"] for labels in free.labels}) > 1
