"""The masked task: which codes are masked, the loss in closed form and as published, evaluation and export."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.masked import masked_loss, masked_positions
from tests.helpers import tiny
from tests.training.conftest import CODES


@pytest.fixture(scope="module")
def make_task(make_codes_task):
    """A function of overrides that returns the task."""
    return functools.partial(make_codes_task, "style_scenes/masked")


def test_the_mask_is_that_of_the_published_programs(golden):
    data = np.load(golden / "heads2/muse/training_mask.npz")
    masked = masked_positions(jnp.asarray(data["time"]), jnp.asarray(data["uniforms"]))
    np.testing.assert_array_equal(masked, data["mask"])
    np.testing.assert_array_equal(np.asarray(masked).sum(axis=1), data["count"])
    assert int(masked_positions(jnp.asarray([0.9999]), jnp.asarray(data["uniforms"][:1])).sum()) == 1


def test_the_loss_is_that_of_the_published_program_with_and_without_smoothing(golden):
    data = np.load(golden / "heads2/muse/uvit_small.npz")
    logits = jnp.asarray(np.moveaxis(data["logits"], 1, -1).reshape(3, 64, 64))
    labels = jnp.asarray(data["labels"].reshape(3, 64), jnp.int32)
    arguments = logits, jnp.maximum(labels, 0), labels >= 0
    assert float(masked_loss(*arguments)) == pytest.approx(float(data["loss"]), rel=1e-5)
    assert float(masked_loss(*arguments, 0.1)) == pytest.approx(float(data["loss_label_smoothing"]), rel=1e-5)


@pytest.mark.slow
def test_equal_logits_have_the_entropy_of_the_codebook(make_task):
    task = make_task("model.dropout=0.5", "label_smoothing=0.3")
    params, stats = jax.jit(task.init)(jax.random.key(0))
    params = tiny.randomize(jax.device_get(params))
    transformer = params["transformer"]
    equal = {"transformer": {**transformer, "logits": jax.tree.map(np.zeros_like, transformer["logits"])}}
    batch = task.complete({name: value[None] for name, value in task.read(0, np.random.default_rng(0)).items()})
    run = jax.jit(task.loss)
    loss, (parts, _) = run(equal, Extras(stats, {}), batch, jax.random.key(0), jnp.zeros((), jnp.int32))
    assert float(loss) == pytest.approx(math.log(CODES), rel=1e-5)
    assert float(parts["bits_per_code"]) == pytest.approx(math.log2(CODES), rel=1e-5)
    losses = [run(params, Extras(stats, {}), batch, jax.random.key(i), jnp.zeros((), int)) for i in (0, 1)]
    assert losses[0][0] != losses[1][0]  # the masks, and dropout, which evaluation leaves out
    assert abs(float(losses[0][0]) / math.log(2) - float(losses[0][1][0]["bits_per_code"])) > 1e-4  # smoothing
    evaluated = dict(task.evaluate(equal))
    assert evaluated == pytest.approx({"loss": math.log(CODES), "bits_per_code": math.log2(CODES)}, rel=1e-5)
    plain = make_task("model.dropout=0.0", "label_smoothing=0.0")
    assert dict(task.evaluate(params)) == pytest.approx(dict(plain.evaluate(params)), rel=1e-5)


@pytest.mark.slow
def test_an_exported_model_generates_and_figures_show_it(make_task):
    task = make_task("sampling.guidance_scale=1.0", "sampling.steps=2")
    params = jax.device_get(jax.jit(task.init)(jax.random.key(0))[0])
    bundle = task.export(params)
    assert bundle.config["head"] == "masked" and bundle.config["transformer"] == task.settings
    assert not task.settings["causal"]
    images = Generator.load(bundle).sample(["a red boat"], condition="text").images
    assert images.shape == (1, 16, 16, 3)
    ((name, sheet),) = task.figures(params)
    assert name == "samples" and sheet.dtype == np.uint8


def test_a_first_stage_without_a_codebook_is_refused(make_diffusion_task, make_task):
    kl = make_diffusion_task().base.path
    with pytest.raises(
        UserError, match="the first stage of 'tiny' has no codebook, and a model with the head 'masked'"
    ):
        make_task(f"base={kl}")
