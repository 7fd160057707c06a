"""Models with an input of their own: what an image has, the loss, and the exported model."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.style_scenes.annotations import annotation
from rdm_jax.generator import Generator
from rdm_jax.models.condition import Condition
from rdm_jax.training.config import load_config
from rdm_jax.training.inputs import open_input
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks import inputs
from tests.helpers import tiny

CLASS = "style_scenes/class"
FOLDERS = "input.attribute=folder", "optimizer.learning_rate=1e-3"


@pytest.fixture(scope="module")
def images(make_diffusion_task):
    """Training images; their rows stand for examples of the procedural set."""
    return dataclasses.replace(make_diffusion_task().images, rows=np.arange(24))


def opened(images, config, *overrides, width=8):
    return open_input(load_config(config, overrides), images, width, 4)


def some_condition(own, rows, neighbors, null):
    """Returns the condition of some images with neighbors of ones."""
    read = np.stack([own.read(row) for row in rows])
    params = own.encoder.init(jax.random.key(0), jnp.asarray(read[:1]))["params"]
    base = Condition(jnp.ones((len(rows), 1 + neighbors, 8)), jnp.ones((len(rows), 1 + neighbors)))
    return own.condition(params, jnp.asarray(read), base, jnp.asarray(null)), params


def test_classes_are_the_values_of_an_attribute(images):
    own = opened(images, CLASS, *FOLDERS)
    assert own.settings == {"kind": "class", "num_classes": 2, "width": 8, "null_class": True}
    assert own.conditioning == {"input": "class", "class_names": ["line", "wash"]}
    assert [int(own.read(row)) for row in (0, 11, 12, 23)] == [0, 0, 1, 1]
    nulls = [int(own.sample(0, np.random.default_rng(seed))) == 2 for seed in range(400)]
    assert 0.05 < np.mean(nulls) < 0.15


def test_a_null_of_the_neighbors_is_one_of_the_class(images):
    own = opened(images, CLASS, *FOLDERS)
    condition, params = some_condition(own, [0, 12], 3, [True, False])
    table = params["classes"]["embedding"]
    np.testing.assert_array_equal(condition.tokens[:, 0], np.stack([table[2], table[1]]))
    assert condition.tokens.shape == (2, 4, 8) and condition.weights.shape == (2, 4)
    alone, _ = some_condition(own, [0, 12], 0, [True, False])
    np.testing.assert_array_equal(alone.tokens[:, 0], table[:2])
    assert alone.weights is None


@pytest.mark.slow
def test_layouts_and_segmentations_are_those_of_the_examples(images):
    layouts, segments = (opened(images, f"style_scenes/{kind}") for kind in ("layout", "segmentation"))
    for row in (0, 7):
        found = annotation("train", row)
        tokens = layouts.read(row)
        assert tokens.shape == (14,) and tokens[0] == found.boxes[0][0] and tokens[-2:].tolist() == [0, 399]
        np.testing.assert_array_equal(segments.read(row), found.labels)
    condition, _ = some_condition(segments, [0, 7], 0, [False, False])
    assert condition.channels.shape == (2, 16, 16, 3) and condition.tokens.shape == (2, 0, 8)
    condition, _ = some_condition(layouts, [0, 7], 2, [False, False])
    assert condition.tokens.shape == (2, 16, 8) and condition.channels is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.source=emoji",), "data.source=emoji has no layouts; style_scenes and style_scenes/tiny have"),
        (("data.size=32",), "data.size=32, and the layouts are of 64 pixels"),
        (("data.mirror=true", "data.cache_latents=false"), "mirrors images and not their layouts"),
        (("input.null_probability=0.5",), "input.null_probability is of classes, and input.kind is 'layout'"),
    ],
)
def test_images_without_layouts_are_refused(images, overrides, message):
    with pytest.raises(UserError, match=message):
        opened(images, "style_scenes/layout", *overrides)


@pytest.mark.slow
@pytest.mark.parametrize("neighbors", [0, 3])
def test_a_trained_model_generates_a_class(make_diffusion_task, neighbors):
    sampling = ("sampling.height=16", "sampling.width=16", "sampling.steps=2")
    places = () if neighbors else ("data.neighbors=",)
    given = (*FOLDERS, *sampling, *places, f"conditioning.neighbors={neighbors}", "conditioning.null_probability=0.5")
    task = make_diffusion_task(*given, config=CLASS, task=inputs)
    params, stats = jax.jit(task.init)(jax.random.key(0))
    params = {**params, "denoiser": tiny.randomize(params["denoiser"])}
    records = [task.read(row, np.random.default_rng(row)) for row in range(4)]
    batch = task.complete({name: np.stack([record[name] for record in records]) for name in records[0]})
    batch = jax.tree.map(jnp.asarray, batch)

    def loss(trained):
        return task.loss(trained, Extras(stats, task.frozen), batch, jax.random.key(0), jnp.zeros((), jnp.int32))[0]

    grads = jax.jit(jax.grad(loss))(params)
    assert np.abs(grads["input_encoder"]["classes"]["embedding"]).max() > 0
    bundle = task.export(params)
    assert bundle.config["conditioning"]["class_names"] == ["line", "wash"]
    generator = Generator.load(bundle)
    made = [generator.sample(class_label=number, condition="text", seed=1, batch_size=1) for number in (0, 1)]
    assert made[0].prompts == ["class 0 (line)"]
    assert np.abs(made[0].images.astype(int) - made[1].images).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("neighbors", [0, 3])
def test_layouts_are_learned_alone_and_beside_neighbors(make_diffusion_task, images, neighbors):
    """Every box and every neighbor reaches the loss, and what a row does not use does not."""
    places = () if neighbors else ("data.neighbors=",)
    given = (*FOLDERS, *places, f"conditioning.neighbors={neighbors}", "conditioning.null_probability=0.0")
    task = make_diffusion_task(*given, config=CLASS, task=inputs)
    task = dataclasses.replace(task, input=opened(images, "style_scenes/layout", width=task.conditions.width))
    params, stats = jax.jit(task.init)(jax.random.key(0))
    params = {**params, "denoiser": tiny.randomize(params["denoiser"])}
    records = [task.read(row, np.random.default_rng(row)) for row in range(2)]
    batch = task.complete({name: np.stack([record[name] for record in records]) for name in records[0]})
    batch = jax.tree.map(jnp.asarray, batch)

    def loss(trained, context):
        given = {**batch, "context": context}
        key, step = jax.random.key(0), jnp.zeros((), jnp.int32)
        return task.loss(trained, Extras(stats, task.frozen), given, key, step)[0]

    grads, of_tokens = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, batch["context"])
    encoder = grads["input_encoder"]
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(encoder["block_0"]["up"]))
    used = np.unique(batch["input"])
    changed = np.flatnonzero(np.abs(encoder["tokens"]["embedding"]).max(axis=1))
    np.testing.assert_array_equal(changed, used)
    assert of_tokens.shape[1] == 1 + neighbors and not np.abs(of_tokens[:, 0]).any()  # the input is in that place
    assert (np.abs(of_tokens[:, 1:]).max(axis=2) > 0).all()
    assert task.export(jax.device_get(params)).config["conditioning"]["input"] == "layout"


def test_a_learned_variance_doubles_the_channels_of_the_output(make_diffusion_task):
    given = ("diffusion.learned_variance=true", "conditioning.null_probability=0.5")
    task = make_diffusion_task(*FOLDERS, *given, config=CLASS, task=inputs)
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    assert params["denoiser"]["conv_out"]["bias"].shape == (2 * task.latents.shape[-1],)
    assert task.model.config["diffusion"]["learned_variance"]


def test_a_learned_null_and_missing_neighbors_are_refused(make_diffusion_task):
    for given, message in (
        (("conditioning.null=learned", "conditioning.null_probability=0.5"), "an input has a null class or none"),
        (("data.neighbors=",), "conditioning.neighbors=3 need data.neighbors"),
    ):
        with pytest.raises(UserError, match=message):
            make_diffusion_task(*FOLDERS, *given, config=CLASS, task=inputs)
