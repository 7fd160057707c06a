"""Training with two roles of neighbors, on a few random images."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.conditioning.roles import StyleTokens
from rdm_jax.conditioning.views import View
from rdm_jax.core.errors import UserError
from rdm_jax.core.vectors import unit
from rdm_jax.data.image_set import ImageSet
from rdm_jax.generator import Generator
from rdm_jax.models import build_denoiser
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.config import load_config
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks import roles
from tests.helpers import tiny

COUNT, GROUP, NEIGHBORS = 48, 3, 2
SMALL = (
    "base=tiny",
    "batch_size=4",
    "init_partial=false",
    "data.held_out_rows=8",
    "data.most_of_style=0",
    "data.restyled=0",
    "data.cache_latents=false",
    f"conditioning.group={GROUP}",
    f"conditioning.neighbors={NEIGHBORS}",
    "model.model_channels=8",
    "model.channel_mult=1",
    "model.attention_resolutions=1",
    "model.num_head_channels=8",
    "model.num_groups=4",
    "sampling.height=16",
    "sampling.width=16",
    "sampling.steps=2",
    "style_encoder.vector_dim=8",
)
CONVOLUTIONS = "style_encoder.widths=8,8", "style_encoder.num_groups=4"


def images(**changes):
    generator = np.random.default_rng(0)
    attributes = [{"style": f"s{i % 4}", "group": f"g{i % 2}", "one_color": str(i % 2)} | changes for i in range(COUNT)]
    pixels = generator.integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    return ImageSet(pixels, [f"word {i % 7}" for i in range(COUNT)], attributes, np.arange(COUNT), "0" * 64)


def task_of(*settings, data=None, tokens=""):
    network = () if tokens else CONVOLUTIONS
    config = load_config(f"icons/rdm:{tokens}" if tokens else "icons/rdm", [*SMALL, *network, *settings])
    return roles.task_of(config, tiny.bundle(), data or images(), lambda *_: None)


@pytest.fixture(scope="module")
def task():
    return task_of()


def styles(task, rows):
    return np.asarray(task.partners.style)[rows]


def test_a_record_is_a_group_of_one_style_without_held_out_images(task):
    generator, seen = np.random.default_rng(0), []
    assert task.size == (COUNT - 8) // GROUP
    for _ in range(40):
        for row in range(task.size):
            group = task.read(row, generator)["row"]
            assert group.shape == (GROUP,) and len(set(styles(task, group))) == 1
            seen += group.tolist()
    assert set(seen) == set(task.groups.rows.tolist()) and not set(seen) & set(task.held_out.tolist())


def test_the_most_of_a_style_are_spread_evenly(task):
    few = task_of("data.most_of_style=5", "data.held_out_rows=0")
    counts = np.bincount(styles(few, few.groups.rows))
    assert counts.tolist() == [5, 5, 5, 5]
    for style in range(4):
        places = np.flatnonzero(np.asarray(few.partners.style) == style)
        gaps = np.diff(np.searchsorted(places, few.groups.rows[styles(few, few.groups.rows) == style]))
        assert gaps.max() - gaps.min() <= 1


def test_content_may_be_an_attribute_and_texts_stay_those_of_the_captions():
    generator = np.random.default_rng(3)
    shown = generator.integers(0, 3, COUNT)
    plain = images()
    labeled = dataclasses.replace(
        plain, attributes=[{**one, "shown": f"c{c}"} for one, c in zip(plain.attributes, shown, strict=True)]
    )
    task = task_of("data.content=shown", data=labeled)
    assert np.array_equal(np.asarray(task.partners.caption) - 1, shown)
    vectors = ClipEncoder(task.base).encode_texts(plain.captions)
    np.testing.assert_allclose(task.texts[task.caption], unit(vectors), atol=1e-5)


def test_restyled_images_are_made_of_those_of_the_same_row():
    plain = images()
    made_of = np.array([5, 3, 5])
    pixels = np.concatenate([plain.images, 255 - plain.images[made_of]])
    labels = [{**plain.attributes[row], "style": "random"} for row in made_of]
    captions = plain.captions + [plain.captions[row] for row in made_of]
    rows = np.concatenate([plain.rows, plain.rows[made_of]])
    whole = ImageSet(pixels, captions, plain.attributes + labels, rows, "1" * 64)
    assert np.asarray(task_of(data=whole).partners.original).tolist() == [*range(COUNT), *made_of]


def test_an_attribute_that_is_missing_is_named():
    with pytest.raises(UserError, match=r"has no attribute 'family', which the config"):
        task_of("data.family=family")


@pytest.mark.slow
def test_latents_that_are_encoded_ahead_are_those_of_the_images(tmp_path):
    settings = "data.most_of_style=5", f"data.data_dir={tmp_path}"
    ahead, each = (task_of(*settings, f"data.cache_latents={cached}") for cached in ("true", "false"))
    assert ahead.latents.moments is not None and len(ahead.latents.moments) == len(ahead.groups.shown) < COUNT
    key, rows = jax.random.key(0), jnp.asarray(ahead.groups.shown[:18].reshape(6, GROUP))

    def x0(task):
        data = jax.tree.map(jnp.asarray, task.frozen)
        task = dataclasses.replace(task, latents=dataclasses.replace(task.latents, scaling={"scale": 1.0}))
        return jax.jit(lambda: task.x0(data, task.example(key, data, rows), key))()

    found, expected = x0(ahead), x0(each)
    assert np.std(expected) > 0
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())  # float16 keeps 11 bits


@pytest.mark.slow
def test_a_group_shares_its_style_neighbors_and_roles_are_left_out_as_often_as_configured(task):
    rows = jnp.asarray(np.stack([task.read(i, np.random.default_rng(i))["row"] for i in range(12)]))
    data = jax.tree.map(jnp.asarray, task.frozen)
    example = jax.jit(task.example)
    found = [jax.device_get(example(jax.random.key(i), data, rows)) for i in range(30)]
    usable = np.stack([one["usable"] for one in found])  # runs, images, neighbors
    captions = task.caption[np.asarray(rows).ravel()]
    for one in found:
        assert one["styles"].shape == (12 * NEIGHBORS, 16, 16, 3) and one["image"].shape == (36, 16, 16, 3)
        text = np.abs(one["text"]).max(axis=1) > 0
        np.testing.assert_allclose(one["text"][text], task.texts[captions][text], rtol=1e-6)
    shown = np.mean([one["has_content"] for one in found])
    config = task.config.conditioning
    expected = (1 - config.null_probability) * (1 - config.content_dropout)
    assert shown == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / usable[..., 0].size))
    assert 0 < usable.mean() < 1


@pytest.mark.slow
def test_training_lowers_the_loss_and_the_export_generates_in_both_roles(task, tmp_path):
    params, _ = jax.jit(task.init)(jax.random.key(0))
    assert set(task.averaged(params)) == {"denoiser", "style_encoder"}
    extras = Extras({}, jax.tree.map(jnp.asarray, task.frozen))
    rows = jnp.asarray(np.stack([task.read(i, np.random.default_rng(i))["row"] for i in range(4)]))
    step = jax.jit(jax.value_and_grad(lambda p, key: task.loss(p, extras, {"row": rows}, key, jnp.zeros((), int))[0]))
    key, losses = jax.random.key(1), []
    for _ in range(12):
        loss, gradient = step(params, key)  # the same examples and noise
        params = jax.tree.map(lambda leaf, slope: leaf - 0.05 * slope, params, gradient)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert list(task.evaluate(params)) == list(task.evaluate(params))
    bundle = task.export(jax.device_get(task.averaged(params)))
    bundle.save(tmp_path / "model", "float32")
    generator = Generator.load(tmp_path / "model")
    tiny.database(tmp_path, "squares", generator.bundle)
    result = generator.sample(
        ["word 1"], database=tmp_path / "squares", content_database=tmp_path / "squares", num_images=2
    )
    assert result.images.shape == (2, 16, 16, 3) and result.content is not None


SIDES = {"latent": 8, "vector": 1, "features": 8}  # of 16 pixels by a first stage of f2, and a U-Net of one level


@pytest.mark.slow
@pytest.mark.parametrize("view", SIDES)
def test_a_style_encoder_of_patches_sees_the_same_in_training_and_in_sampling(view):
    task = task_of("style_encoder.patch=1", tokens=view)
    assert task.encoder.tokens == SIDES[view] ** 2
    params, _ = jax.jit(task.init)(jax.random.key(0))
    params["denoiser"] = tiny.randomize(params["denoiser"])
    rows = jnp.asarray(np.stack([task.read(i, np.random.default_rng(i))["row"] for i in range(4)]))

    def loss(params):
        extras = Extras({}, jax.tree.map(jnp.asarray, task.frozen))
        return task.loss(params, extras, {"row": rows}, jax.random.key(1), jnp.zeros((), int))[0]

    slopes = jax.jit(jax.grad(loss))(params)["style_encoder"]
    assert np.abs(slopes["patch"]["kernel"]).max() > 0

    bundle = task.export(jax.device_get(task.averaged(params)))
    pixels = task.images.images[:3]
    maps = task.view({**task.frozen, **params}, jnp.asarray(pixels / np.float32(127.5) - 1))
    tokens, _ = task.encoder.apply({"params": params["style_encoder"]}, maps)
    other = dataclasses.replace(bundle, params={**bundle.params, "denoiser": tiny.randomize(params["denoiser"], 5)})
    for model, same in ((bundle, True), (other, view != "features")):
        style = StyleTokens.of(model, ())
        assert style is not None
        assert (np.abs(style.encode(pixels)[0] - tokens).max() < 1e-4) == same


def test_views_that_do_not_exist_or_that_a_backbone_lacks_are_refused():
    with pytest.raises(UserError, match="'pixels'"):
        task_of("style_encoder.view=pixels", tokens="latent")
    dit = build_denoiser(
        {"kind": "dit", "in_channels": 2, "out_channels": 2, "context_dim": 16, "latent_size": 8, "width": 8}
        | {"depth": 1, "heads": 2, "patch_size": 2}
    )
    with pytest.raises(UserError, match="view 'features' is of a U-Net"):
        View.of({"view": "features"}, tiny.bundle(), dit, {"scale": 1.0})
