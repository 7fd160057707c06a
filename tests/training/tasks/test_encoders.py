"""The task of several encoders: independent dropout, the condition of training and of sampling, the model, errors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.encoders import ENCODERS
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks import encoders
from tests.helpers import tiny

TEXT = (
    "text.context_length=6", "text.width=8", "text.layers=1", "text.heads=1", "text.head_channels=8"
)  # fmt: skip
RATES = {"clip_text": 0.2, "clip_states": 0.5, "text_states": 0.25, "clip_image": 0.9, "neighbors": 0.3}


@pytest.fixture(scope="module")
def make_task(make_diffusion_task):
    """A function of overrides that returns the task, with all encoders."""
    given = "emphasis.style.neon=1", "sampling.height=16", "sampling.width=16", "encoders.clip_states=0.5", *TEXT
    make = functools.partial(make_diffusion_task, *given, config="style_scenes/encoders", task=encoders)
    return lambda *overrides, **options: make(*overrides, **options)


@pytest.fixture(scope="module")
def task(make_task):
    return make_task("conditioning.null_probability=0.0")


@pytest.fixture(scope="module")
def params(task):
    return tiny.randomize(jax.device_get(jax.jit(task.init)(jax.random.key(0))[0]))


def test_encoders_are_dropped_independently_by_their_own_rates(task):
    generator, count = np.random.default_rng(0), 6000
    kept = np.stack([task.conditions.sample(0, generator)["kept"] for _ in range(count)])
    assert list(task.conditions.rates) == list(RATES) == list(ENCODERS)
    rates = np.array(list(RATES.values()))
    assert (np.abs(1 - kept.mean(axis=0) - rates) < 4 * np.sqrt(rates * (1 - rates) / count)).all()
    correlations = np.corrcoef(kept.T)[np.triu_indices(5, 1)]
    assert np.abs(correlations).max() < 4 / np.sqrt(count)
    dropped = (kept == 0).all(axis=1).mean()
    assert dropped == pytest.approx(rates.prod(), abs=4 * np.sqrt(rates.prod() / count))


def test_no_condition_drops_all_of_them(make_task):
    conditions = make_task("conditioning.null_probability=1.0").conditions
    generator = np.random.default_rng(0)
    assert not any(conditions.sample(0, generator)["kept"].any() for _ in range(20))


def batch_of(task, kept):
    """Returns a batch in which the encoders are kept as the rows say."""
    records = [task.read(row, np.random.default_rng(row)) for row in range(len(kept))]
    records = [{**record, "kept": np.asarray(one, np.float32)} for record, one in zip(records, kept, strict=True)]
    return task.complete({name: np.stack([record[name] for record in records]) for name in records[0]})


@pytest.mark.slow
def test_the_condition_of_training_is_that_of_sampling(task, params):
    """With the caption, the image as the reference, and the same neighbors."""
    batch = batch_of(task, np.ones((1, 5)))
    trained = jax.jit(task.condition)({**task.frozen, **params}, batch)
    generator, row = Generator.load(task.export(params)), int(task.rows[0])
    caption = task.images.captions[row]
    queries = generator.encoder.encode_queries([caption])
    plan = generator.plan_vectors(queries, batch["neighbors"], [caption], condition="text+neighbors", steps=1)
    reference = generator.encoder.encode_images([np.asarray(task.images.images[row])])[0]
    several = plan.builder.encoders
    assert several is not None
    own = several.condition(queries, batch["neighbors"], plan.builder.text)
    assert own.tokens.shape[1] == trained.tokens.shape[1] - 1  # no reference
    own = dataclasses.replace(several, reference=reference).condition(queries, batch["neighbors"], plan.builder.text)
    np.testing.assert_array_equal(own.weights, trained.weights)
    np.testing.assert_allclose(own.tokens, trained.tokens, rtol=1e-2, atol=1e-2)  # cached vectors are float16
    np.testing.assert_allclose(own.vector, trained.vector, rtol=1e-2, atol=1e-2)


def test_dropping_all_is_the_null_condition_and_dropping_one_is_its_absence(task, params):
    batch = batch_of(task, [[0] * 5, [1, 1, 1, 0, 1], [1] * 5])
    found = jax.jit(task.condition)({**task.frozen, **params}, batch)
    null = task.conditions.projections, params["encoder_tokens"]["null"]
    assert found.weights[0].tolist() == [1.0] + [0.0] * (found.weights.shape[1] - 1)
    np.testing.assert_array_equal(found.tokens[:, 0], np.tile(null[1], (3, 1)))
    assert not found.vector[0].any() and not found.vector[1, 16:].any() and found.vector[2, 16:].any()
    image = found.weights.shape[1] - 4  # before three neighbors
    assert found.weights[1:, image].tolist() == [0.0, 1.0]
    assert not batch["neighbors"][0].any() and batch["neighbors"][1].any()  # not read where they are dropped


@pytest.mark.slow
def test_every_network_is_trained_and_the_tower_is_not(task, params):
    batch = jax.tree.map(jnp.asarray, batch_of(task, [[1] * 5, [1, 0, 1, 0, 1]]))
    extras = Extras({}, task.frozen)

    def loss(params):
        return task.loss(params, extras, batch, jax.random.key(0), jnp.zeros((), jnp.int32))[0]

    gradients = jax.jit(jax.grad(loss))(params)
    assert set(gradients) == set(task.trained) == {"denoiser", "encoder_tokens", "text_encoder"}
    for part in ("encoder_tokens", "text_encoder"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients[part]):
            assert np.abs(leaf).max() > 0 or "key" in str(path), path
    assert "clip_states" in task.frozen


@pytest.mark.slow
def test_an_exported_model_has_all_parts_and_figures_show_it(make_task, tmp_path):
    task = make_task("sampling.steps=1", "sampling.guidance_scale=1.0")
    params = jax.device_get(jax.jit(task.init)(jax.random.key(0))[0])
    task.export(params).save(tmp_path / "model", dtype="float32")
    bundle = Bundle.open(tmp_path / "model")
    assert set(bundle.params) == {"clip", "text_encoder", "encoder_tokens", "autoencoder", "denoiser"}
    assert bundle.encoder_tokens.dims == dict(zip(RATES, (16, 16, 8, 16, 16), strict=True))
    assert bundle.denoiser.vector_dim == 32
    for part in task.trained:
        jax.tree.map(np.testing.assert_array_equal, bundle.params[part], params[part])
    ((name, sheet),) = task.figures(params)
    assert name == "samples" and sheet.dtype == np.uint8
    assert "loss" in dict(task.evaluate(params))


def test_a_task_of_one_encoder_needs_nothing_of_the_others(make_task):
    only = "encoders.clip_states=1", "encoders.text_states=1", "encoders.clip_image=1", "encoders.neighbors=1"
    task = make_task(*only, "text={}", "conditioning.neighbors=0", "data.neighbors=", "encoders.beside_time=false")
    assert set(task.settings) >= {"kind"} and list(task.conditions.settings["encoder_tokens"]["encoders"]) == [
        "clip_text"
    ]
    assert (task.conditions.neighbors, task.conditions.vectors, task.conditions.texts) == (None, None, None)
    assert task.conditions.shown("text+neighbors") == "text" and task.conditions.frozen == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"encoders.{name}=1" for name in ENCODERS], "encoders has no encoder with a rate below 1"),
        (["conditioning.text_probability=0.1"], "conditioning.text_probability=0.1: encoders have rates; set it to 0"),
        (["conditioning.unit_tokens=true"], "conditioning.null and conditioning.unit_tokens"),
        (["encoders.neighbors=1"], "encoders.neighbors=1.0, conditioning.neighbors=3 and data.neighbors=.*give all th"),
        (["encoders.text_states=1"], "encoders.text_states=1.0 is of the text encoder in the section text; give both"),
        (["encoders.clip_text=1.5"], "encoders.clip_text=1.5"),
        (["model={kind: uvit, patch_size: 2, width: 16, depth: 2, heads: 2}"], "encoders.beside_time=true needs model"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(make_task, overrides, message):
    with pytest.raises(UserError, match=message) as error:
        make_task(*overrides)
    assert "\n" not in str(error.value)
