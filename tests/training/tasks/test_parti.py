"""The text-to-image task: conditions as in sampling, who learns, evaluation, export, and settings that are refused."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.models.condition import with_images
from rdm_jax.training.conditioning import CODES as CONDITIONS
from rdm_jax.training.state import Extras
from tests.helpers import tiny
from tests.training.conftest import CODES

SMALL = ("text.width=12", "text.layers=1", "text.heads=2", "text.head_channels=4", "text.context_length=8")


@pytest.fixture(scope="module")
def make_task(make_codes_task):
    """A function of overrides that returns the task."""
    return functools.partial(make_codes_task, "style_scenes/parti", *SMALL)


@pytest.fixture(scope="module")
def task(make_task):
    return make_task("sampling.guidance_scale=1.0")


@pytest.fixture(scope="module")
def params(task):
    return tiny.randomize(jax.device_get(jax.jit(task.init)(jax.random.key(0))[0]))


def batch_of(task, names, row=0):
    """A batch with an image under each of some conditions."""
    records = [task.read(row, np.random.default_rng(1)) for _ in names]
    for record, name in zip(records, names, strict=True):
        record["condition"] = np.array(CONDITIONS.index(name))
    batch = task.complete({key: np.stack([record[key] for record in records]) for key in records[0]})
    return jax.tree.map(jnp.asarray, batch)


def test_a_condition_in_training_is_that_of_sampling(task, params):
    names = ("", "text", "text+neighbors", "neighbors")
    batch = batch_of(task, names)
    run = jax.jit(lambda params, batch: with_images(task.condition(params, batch)))
    tokens, weights = run(params, batch)
    image = int(task.rows[0])
    generator = Generator.load(task.export(params))
    query, caption = np.zeros((1, tiny.WIDTH)), [task.images.captions[image]]
    assert batch["neighbors"][2].any() and not batch["neighbors"][1].any()
    for name, own, own_weights in zip(names, tokens, weights, strict=True):
        neighbors = np.asarray(batch["neighbors"][2:3]) if "neighbors" in name else None
        plan = generator.plan_vectors(query, neighbors, caption, condition=name or "text")
        condition = plan.context.given if name else plan.context.null
        expected, expected_weights = with_images(jax.tree.map(jnp.asarray, condition))
        count = expected.shape[1]
        np.testing.assert_allclose(own[:count], expected[0], rtol=1e-4, atol=1e-5)
        assert expected_weights is None or (np.asarray(expected_weights) == 1).all()
        np.testing.assert_array_equal(own_weights, [1.0] * count + [0.0] * (len(own) - count))


@pytest.mark.slow
def test_all_networks_learn_and_unused_neighbors_teach_nothing(task, params):
    def gradient(names):
        batch = batch_of(task, names)

        def loss(params):
            return task.loss(params, Extras({}, {}), batch, jax.random.key(0), jnp.zeros((), int))[0]

        grads = jax.jit(jax.grad(loss))(params)
        return {part: max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(grads[part])) for part in grads}

    used, unused = gradient(("text+neighbors", "neighbors")), gradient(("text", ""))
    assert set(used) == {"transformer", "text_encoder", "image_adapter"} == set(task.trained)
    assert min(used.values()) > 1e-6
    assert unused["image_adapter"] < 1e-20 < 1e-6 < unused["text_encoder"]


def test_equal_logits_have_the_entropy_of_the_codebook(task, params):
    transformer = params["transformer"]
    equal = {**params, "transformer": {**transformer, "logits": jax.tree.map(np.zeros_like, transformer["logits"])}}
    evaluated = dict(task.evaluate(equal))
    assert evaluated == pytest.approx({"loss": math.log(CODES), "bits_per_code": math.log2(CODES)}, rel=1e-5)
    assert dict(task.evaluate(params)) != pytest.approx(evaluated, rel=1e-3)


@pytest.mark.slow
def test_a_few_steps_lower_the_loss(task):
    batch, optimizer = batch_of(task, ("text+neighbors", "text", "neighbors", "")), optax.adam(1e-2)
    params = jax.jit(task.init)(jax.random.key(0))[0]

    @jax.jit
    def run(params):
        def step(carry, key):
            params, state = carry
            value, grads = jax.value_and_grad(
                lambda p: task.loss(p, Extras({}, {}), batch, key, jnp.zeros((), int))[0]
            )(params)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(jax.random.key(1), 30))[1]

    losses = run(params)
    assert losses[0] == pytest.approx(math.log(CODES), rel=0.05)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
def test_an_exported_model_generates_and_figures_show_it(task, params, tmp_path):
    task.export(params).save(tmp_path / "model", dtype="float32")
    bundle = Bundle.open(tmp_path / "model")
    assert bundle.config["head"] == "autoregressive" and bundle.config["transformer"] == task.settings
    assert (bundle.text_encoder.layers, bundle.image_adapter.tokens) == (1, 1)
    images = Generator.load(bundle).sample(["a red boat"], condition="text").images
    assert images.shape == (1, 16, 16, 3)
    ((name, first),) = task.figures(params)
    assert name == "samples" and first.dtype == np.uint8
    # The second sheet reuses what the first compiled, and shows the other encoder.
    ((_, same),) = task.figures(params)
    np.testing.assert_array_equal(first, same)
    ((_, other),) = task.figures({**params, "text_encoder": tiny.randomize(params["text_encoder"], 7)})
    assert (first != other).any()


def test_without_neighbors_there_is_no_projection_and_every_caption_is_read(make_task):
    task = make_task("data.neighbors=", "conditioning.neighbors=0", "conditioning.null_probability=0.0")
    assert task.trained == ("transformer", "text_encoder") and "image_adapter" not in task.model.config
    batch = batch_of(task, ("text", ""))
    assert list(batch) == ["codes", "text"]
    assert (batch["text"][0] != batch["text"][1]).any()
    records = [task.read(row, np.random.default_rng(row)) for row in range(8)]
    assert {CONDITIONS[int(record["condition"])] for record in records} == {"text"}


def test_a_text_without_encoder_is_its_embedded_tokens(make_task):
    task = make_task("text.layers=0")
    shapes = jax.eval_shape(task.init, jax.random.key(0))[0]["text_encoder"]
    assert set(shapes) == {"tokens", "positions", "norm_out"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.neighbors=", "conditioning.neighbors=3 needs data.neighbors; give it, or set conditioning.neighbors=0"),
        ("conditioning.null=learned", "conditioning.null=learned: the empty text is no condition here"),
        ("conditioning.unit_tokens=true", "conditioning.unit_tokens=true: neighbors are projected and normalized here"),
        ("text.layers=-1", r"config key text\.layers=-1 is out of range"),
        ("text.width=0", r"config key text\.width=0 is out of range"),
        ("text.depth=2", r"unknown config key 'text\.depth'"),
    ],
)
def test_settings_that_have_no_place_are_refused(make_task, override, message):
    with pytest.raises(UserError, match=message):
        make_task(override)


def test_a_first_stage_without_a_codebook_is_refused(make_diffusion_task, make_task):
    kl = make_diffusion_task().base.path
    with pytest.raises(UserError, match=r"'tiny' has no codebook, .* of kind 'vq' or 'vit_vq'"):
        make_task(f"base={kl}")
