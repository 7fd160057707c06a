"""The task of the second stage of masked codes: what its records hold, its loss, its model, and its errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.bundle import Bundle, with_fine_first_stage
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import resize_and_crop, to_float
from rdm_jax.factory import codes_encoder_from
from rdm_jax.generator import Generator
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.codes import encode_codes
from tests.helpers import tiny

FINE_CODES = 20
SMALL = "model.square=4", "model.coarse_depth=1"


@pytest.fixture(scope="module")
def bases(make_codes_task, tmp_path_factory):
    """{name: folder} of models of masked codes: without a finer first stage, and with several."""
    root, folders = tmp_path_factory.mktemp("bases"), {}
    task = make_codes_task("style_scenes/masked")
    model = task.export(tiny.randomize(jax.device_get(jax.jit(task.init)(jax.random.key(0))[0])))
    stage = {**model.config["autoencoder"], "ch_mult": [1], "num_codes": FINE_CODES}
    kinds = {"fine": stage, "coarse": {**stage, "ch_mult": [1, 1, 1]}, "kl": tiny.CONFIG["autoencoder"]}
    models = {"plain": model}
    for name, config in kinds.items():
        params = tiny.random_params({"autoencoder": config}, "autoencoder", 1)
        params |= {"codebook": 8.0 * params["codebook"]} if "codebook" in params else {}
        models[name] = with_fine_first_stage(model, Bundle({"autoencoder": config}, {"autoencoder": params}))
    models["other head"] = Bundle({**models["fine"].config, "head": "autoregressive"}, models["fine"].params)
    for name, one in models.items():
        one.save(root / name, dtype="float32")
        folders[name] = root / name
    return folders


@pytest.fixture(scope="module")
def make_task(make_codes_task, bases):
    """A function of a base's name and overrides that returns the task."""
    return lambda base="fine", *overrides: make_codes_task(
        "style_scenes/masked_fine", f"base={bases[base]}", *SMALL, *overrides
    )


@pytest.fixture(scope="module")
def task(make_task):
    return make_task()


def batch_of(task, count=3):
    generator = np.random.default_rng(0)
    records = [task.read(row, generator) for row in range(count)]
    return task.complete({name: np.stack([record[name] for record in records]) for name in records[0]})


def test_a_record_has_the_codes_of_both_first_stages(task):
    batch, images = batch_of(task), to_float(np.asarray(task.images.images))[task.rows[:3]]
    assert (batch["codes"].shape, batch["coarse"].shape) == ((3, 256), (3, 64))
    for name, part in (("codes", "fine_autoencoder"), ("coarse", "autoencoder")):
        expected = jax.jit(codes_encoder_from(getattr(task.base, part)))(task.base.params[part], images)
        np.testing.assert_array_equal(batch[name], expected)


def test_coarse_codes_are_those_of_smaller_images(task, tmp_path):
    small = encode_codes(task.base, task.images, tmp_path, lambda *_: None, "fine_autoencoder", 8)
    pixels = np.stack([resize_and_crop(np.asarray(image), 8) for image in task.images.images[:2]])
    encode = jax.jit(codes_encoder_from(task.base.fine_autoencoder))
    np.testing.assert_array_equal(small[:2], encode(task.base.params["fine_autoencoder"], to_float(pixels)))


@pytest.mark.slow
def test_equal_logits_have_the_entropy_of_the_fine_codebook_and_coarse_codes_reach_the_loss(task):
    params = tiny.randomize(jax.device_get(jax.jit(task.init)(jax.random.key(0))[0]))
    batch, run = batch_of(task), jax.jit(task.loss)
    network = params["fine_transformer"]
    zeros = jax.tree.map(np.zeros_like, network["transformer"]["logits"])
    equal = {"fine_transformer": {**network, "transformer": {**network["transformer"], "logits": zeros}}}
    step = jnp.zeros((), jnp.int32)
    loss, (parts, _) = run(equal, Extras({}, {}), batch, jax.random.key(0), step)
    assert float(loss) == pytest.approx(math.log(FINE_CODES), rel=1e-5)
    assert float(parts["bits_per_code"]) == pytest.approx(math.log2(FINE_CODES), rel=1e-5)
    assert dict(task.evaluate(equal))["loss"] == pytest.approx(math.log(FINE_CODES), rel=1e-5)
    plain = float(run(params, Extras({}, {}), batch, jax.random.key(0), step)[0])
    other = {**batch, "coarse": (batch["coarse"] + 1) % 12}
    assert abs(float(run(params, Extras({}, {}), other, jax.random.key(0), step)[0]) - plain) > 1e-4


@pytest.mark.slow
def test_an_exported_model_has_all_parts_and_generates(task):
    params = jax.device_get(jax.jit(task.init)(jax.random.key(0))[0])
    bundle = task.export(params)
    assert set(bundle.params) == {"clip", "autoencoder", "transformer", "fine_autoencoder", "fine_transformer"}
    assert bundle.config["fine_transformer"] == task.settings and bundle.config["head"] == "masked"
    assert bundle.config["conditioning"] == task.base.config["conditioning"]
    assert bundle.config["sampling"]["fine_steps"] == 8
    assert Generator.load(bundle).sample(["a red boat"], condition="text", steps=1, fine_steps=1).images.shape[1] == 16


@pytest.mark.slow
def test_figures_show_both_stages(make_task):
    task = make_task("fine", "sampling.guidance_scale=1.0", "sampling.steps=1", "sampling.fine_steps=1")
    params = jax.device_get(jax.jit(task.init)(jax.random.key(0))[0])
    ((name, sheet),) = task.figures(params)
    assert name == "samples" and sheet.dtype == np.uint8


@pytest.mark.parametrize(
    ("base", "override", "message"),
    [
        ("plain", (), "base 'style-scenes-masked' has no fine_autoencoder; join one: rdm export BASE --fine-first-"),
        (
            "coarse",
            (),
            "has 16 codes in the fine first stage of 'style-scenes-masked', and 64 in the other; give a fin",
        ),
        ("kl", (), "the first stage of 'style-scenes-masked' has no codebook"),
        ("other head", (), "has the head 'autoregressive', and a second stage needs a model of masked codes"),
        ("fine", ("conditioning.unit_tokens=true",), "conditioning.unit_tokens=True, and base .* set it to False"),
        ("fine", ("conditioning.null=learned",), "conditioning.null=learned, and base .* set it to zeros"),
        ("fine", ("model.square=3",), "square=3 does not divide the side of a grid of 256 positions"),
    ],
)
def test_stages_that_do_not_fit_are_refused_in_one_line(make_task, base, override, message):
    with pytest.raises(UserError, match=message) as error:
        jax.eval_shape(make_task(base, *override).init, jax.random.key(0))
    assert "\n" not in str(error.value)


def test_a_learned_null_token_of_the_base_is_that_of_the_second_stage(make_task, bases, tmp_path):
    base = Bundle.open(bases["fine"])
    token = np.arange(16.0).tolist()
    config = {**base.config, "conditioning": {**base.config["conditioning"], "null": "learned", "null_token": token}}
    Bundle(config, base.params, base.tokenizer).save(tmp_path / "learned", dtype="float32")
    task = make_task("fine", f"base={tmp_path / 'learned'}", "conditioning.null=learned")
    batch = {**batch_of(task), "null": np.array([True, False, True])}
    tokens = jax.jit(lambda one: task.condition({}, one).tokens)(batch)
    np.testing.assert_array_equal(tokens[jnp.array([0, 2]), 0], np.stack([token, token]).astype(np.float32))
    np.testing.assert_array_equal(tokens[1], batch["context"][1])
