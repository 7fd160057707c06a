import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rdm_jax.core.errors import UserError
from rdm_jax.data.icons.words import CONCEPTS, UNSEEN_WORDS
from rdm_jax.data.image_set import ImageSet
from rdm_jax.training.config import base_config, complete_config
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks import classifier

ATTRIBUTES = [
    {"subject": "sun", "colour": "red", "style": "neon"},
    {"subject": "cat", "colour": "blue", "style": "charcoal"},
    {"subject": "cat", "colour": "blue", "style": "neon"},
]
UNSEEN = {"colour": {"style": ["charcoal"]}}


def make(images, attributes):
    config = ConfigDict(
        {
            "name": "classifier",
            "attributes": ("subject", "colour", "style"),
            "unseen": UNSEEN,
            "held_out_share": 0.0,
            "complete": 0.0,
            "eval_images": 100,
            "data": {"source": "none", "split": "a", "held_out": "b", "size": 16},
            "augment": {"shift": 0, "blur": 0.0, "brightness": 0.0, "noise": 0.0, "mirror": True},
            "model": {"stem": (4,), "widths": (8,), "num_groups": 2, "dropout": 0.0},
        }
    )
    rows = np.arange(len(images))
    images = ImageSet(images, ["" for _ in rows], attributes, rows, "0" * 64)
    classes = classifier.class_names(attributes, config.attributes)
    found = classifier.labels(attributes, classes, UNSEEN)
    return classifier.ClassifierTask(config, classes, images, images, found, found)


@pytest.fixture(scope="module")
def task():
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    return make(images, ATTRIBUTES)


def test_classes_are_the_values_of_the_images():
    assert classifier.class_names(ATTRIBUTES, ("subject", "style")) == {
        "subject": ["cat", "sun"],
        "style": ["charcoal", "neon"],
    }
    with pytest.raises(UserError, match=r"no attribute .ground. .*the first one has: subject"):
        classifier.class_names(ATTRIBUTES, ("ground",))


def test_what_cannot_be_seen_has_no_label():
    classes = classifier.class_names(ATTRIBUTES, ("subject", "colour", "style"))
    expected = [[1, 1, 1], [0, classifier.IGNORED, 0], [0, 0, 1]]
    np.testing.assert_array_equal(classifier.labels(ATTRIBUTES, classes, UNSEEN), expected)


def test_the_loss_is_the_mean_over_what_can_be_seen(task):
    params, _ = jax.jit(task.init)(jax.random.key(0))
    batch = {"image": jnp.asarray(task.train.images), "labels": jnp.asarray(task.train_labels)}
    value, (metrics, _) = jax.jit(task.loss)(params, Extras({}, {}), batch, jax.random.key(1), jnp.zeros((), jnp.int32))
    x = batch["image"].astype(jnp.float32) / 127.5 - 1.0
    logits = jax.jit(task.module.apply)({"params": params["classifier"]}, x)
    expected = 0.0
    for column, name in enumerate(("subject", "colour", "style")):
        log_probabilities = np.asarray(jax.nn.log_softmax(logits[name]), np.float64)
        classes = task.train_labels[:, column]
        seen = [row for row in range(3) if classes[row] >= 0]
        expected -= np.mean([log_probabilities[row, classes[row]] for row in seen])
        right = np.mean([log_probabilities[row].argmax() == classes[row] for row in seen])
        assert float(metrics[f"accuracy/{name}"]) == pytest.approx(right)
    assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_label_of_an_unseen_color_does_not_matter(task):
    params, _ = jax.jit(task.init)(jax.random.key(0))
    batch = {"image": jnp.asarray(task.train.images), "labels": jnp.asarray(task.train_labels)}

    def loss(params, batch):
        return task.loss(params, Extras({}, {}), batch, jax.random.key(1), jnp.zeros((), jnp.int32))[0]

    grad = jax.jit(jax.grad(loss))
    gradient = grad(params, batch)
    alone = grad(params, {name: value[jnp.array([0, 2])] for name, value in batch.items()})
    np.testing.assert_allclose(
        gradient["classifier"]["heads_colour"]["kernel"], alone["classifier"]["heads_colour"]["kernel"], rtol=1e-4
    )


def test_the_exported_bundle_names_its_classes(task):
    bundle = task.export(jax.jit(task.init)(jax.random.key(0))[0])
    assert bundle.config["classifier"]["classes"]["subject"] == ["cat", "sun"]
    assert bundle.config["evaluation"]["unseen"] == {"colour": {"style": ["charcoal"]}}
    assert bundle.config["evaluation"]["augment"]["shift"] == 0
    assert set(bundle.params) == {"classifier"}


def test_evaluation_names_every_image_once(task):
    params, _ = jax.jit(task.init)(jax.random.key(0))
    found = classifier.name_attributes(task.module, params["classifier"], task.test.images)
    x = jnp.asarray(task.test.images, jnp.float32) / 127.5 - 1.0
    logits = jax.jit(task.module.apply)({"params": params["classifier"]}, x)
    for name, values in logits.items():
        np.testing.assert_array_equal(found[name], values.argmax(-1))
    assert {name for name, _ in task.evaluate(params)} == {"accuracy/subject", "accuracy/colour", "accuracy/style"}


def test_shifted_images_are_crops_of_the_reflected_one():
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    crops = [padded[i : i + 8, j : j + 8] for i in range(5) for j in range(5)]
    allowed = {crop.tobytes() for crop in crops} | {np.ascontiguousarray(crop[:, ::-1]).tobytes() for crop in crops}
    generator = np.random.default_rng(2)
    found = {classifier.shifted(image, 2, generator).tobytes() for _ in range(300)}
    assert found <= allowed
    assert len(found) > 40


def test_blemishes_are_nothing_at_zero_and_a_mean_at_full_blur():
    x = jax.random.uniform(jax.random.key(3), (2, 6, 6, 3), jnp.float32, -0.9, 0.9)
    nothing = ConfigDict({"blur": 0.0, "brightness": 0.0, "noise": 0.0})
    np.testing.assert_allclose(classifier.augmented(x, jax.random.key(4), nothing), x, atol=1e-6)
    noisy = ConfigDict({"blur": 0.0, "brightness": 0.2, "noise": 0.1})
    changed = np.asarray(classifier.augmented(x, jax.random.key(4), noisy))
    assert np.abs(changed).max() <= 1.0
    assert 0.001 < np.abs(changed - np.asarray(x)).mean() < 0.3
    flat = jnp.full((1, 5, 5, 3), 0.25, jnp.float32)
    blurred = classifier.augmented(flat, jax.random.key(5), ConfigDict({"blur": 1.0, "brightness": 0.0, "noise": 0.0}))
    np.testing.assert_allclose(blurred, flat, atol=1e-6)


def test_mirroring_can_be_left_out():
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    generator = np.random.default_rng(2)
    found = {classifier.shifted(image, 0, generator, mirror=False).tobytes() for _ in range(20)}
    assert found == {image.tobytes()}


CAPTIONED = [{"caption": caption} for caption in ["sun"] * 3 + ["cat"] * 2 + ["bee"] * 2 + ["ant"]]


def test_classes_may_be_the_most_common_values():
    assert classifier.class_names(CAPTIONED, ("caption",), {"caption": 2}) == {"caption": ["bee", "sun"]}
    assert classifier.class_names(CAPTIONED, ("caption",), {"caption": 2}, {"caption": ["ant", "owl"]}) == {
        "caption": ["ant", "sun"]
    }


def test_values_that_are_no_class_do_not_count():
    found = classifier.labels(CAPTIONED, {"caption": ["bee", "sun"]}, {})
    np.testing.assert_array_equal(found[:, 0], [1, 1, 1, -1, -1, 0, 0, -1])


def icons(count):
    """Returns drawings in three styles; the first half shows suns, the second half one image each of other things."""
    rows = np.arange(count)
    captions = ["sun" if row < count // 2 else f"thing {row}" for row in rows]
    styles = [{"style": f"s{row % 3}"} for row in rows]
    return ImageSet(np.zeros((count, 16, 16, 3), np.uint8), captions, styles, rows, "0" * 64)


def icon_config(tmp_path, **changes):
    shipped = base_config("icons/classifier").to_dict()
    shipped["data"] |= {"size": 16, "source": str(tmp_path)}
    return complete_config({**shipped, **changes})


def test_the_icons_config_names_captions_and_holds_out_a_share(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "training_images", lambda data, split, progress: icons(300))
    config = icon_config(tmp_path, most_common={"caption": 5}, held_out_share=0.25, eval_images=20)
    task = classifier.make(config, tmp_path, lambda *at: None)
    assert task.classes["style"] == ["s0", "s1", "s2"]
    assert "sun" in task.classes["caption"]
    assert len(task.classes["caption"]) == 5
    held_out = {*range(300)} - {*task.train.rows.tolist()}
    assert set(task.test.rows.tolist()) <= held_out
    assert 0 < len(task.test) <= 20
    # Images of equal attributes stay together: all suns of a style are on one side.
    for style in range(3):
        suns = {row for row in range(style, 150, 3)}
        assert suns <= held_out or not suns & held_out
    assert task.model.config["evaluation"]["held_out_share"] == 0.25


@pytest.mark.parametrize("complete", [0.0, 0.5, 1.0])
def test_images_with_a_class_of_every_attribute_come_as_often_as_configured(tmp_path, monkeypatch, complete):
    monkeypatch.setattr(classifier, "training_images", lambda data, split, progress: icons(300))
    config = icon_config(
        tmp_path, most_common={"caption": 1}, always={"caption": ("sun",)}, held_out_share=0.1, complete=complete
    )
    task = classifier.make(config, tmp_path, lambda *at: None)
    generator = np.random.default_rng(0)
    labels = np.stack([task.read(row, generator)["labels"] for row in range(task.size)])
    known = (task.train_labels != classifier.IGNORED).all(axis=1).mean()
    expected = complete + (1 - complete) * known
    assert (labels[:, 1] == 0).mean() == pytest.approx(expected, abs=0.1 if complete else 0.0)


def test_a_share_that_leaves_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "training_images", lambda data, split, progress: icons(6))
    with pytest.raises(UserError, match=r"held_out_share=1.0 of 6 images leaves none to train on"):
        classifier.make(icon_config(tmp_path, held_out_share=1.0), tmp_path, lambda *at: None)


def test_the_icons_config_has_every_word_of_the_evaluation():
    config = base_config("icons/classifier")
    assert set(CONCEPTS + UNSEEN_WORDS) <= set(config.always.caption)
    assert len(config.always.caption) < config.most_common.caption
