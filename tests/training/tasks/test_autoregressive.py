"""The autoregressive task: codes computed ahead, the loss in closed form, evaluation and export."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.core.images import to_float
from rdm_jax.generator import Generator
from rdm_jax.training.state import Extras
from tests.helpers import tiny
from tests.training.conftest import CODES


@pytest.fixture(scope="module")
def make_task(make_codes_task):
    """A function of overrides that returns the task."""
    return functools.partial(make_codes_task, "style_scenes/rarm")


def test_the_codes_are_those_of_the_first_stage(make_task):
    task = make_task()
    assert task.codes.shape == (24, 64) and task.codes.dtype == np.uint8
    assert task.settings["num_codes"] == CODES and task.settings["num_tokens"] == 64
    images = jnp.asarray(to_float(np.asarray(task.images.images[3:5])))
    module, params = task.base.autoencoder, {"params": task.base.params["autoencoder"]}
    codes = jax.jit(lambda x: module.apply(params, x, method="codes"))(images)
    np.testing.assert_array_equal(np.asarray(codes).reshape(2, -1), task.codes[3:5])
    assert len(np.unique(task.codes)) > 1
    record = task.read(0, np.random.default_rng(0))
    np.testing.assert_array_equal(record["codes"], task.codes[task.rows[0]])


@pytest.mark.slow
def test_equal_logits_have_the_entropy_of_the_codebook(make_task):
    task = make_task("model.dropout=0.5")
    params, stats = jax.jit(task.init)(jax.random.key(0))
    params = tiny.randomize(jax.device_get(params))
    transformer = params["transformer"]
    equal = {"transformer": {**transformer, "logits": jax.tree.map(np.zeros_like, transformer["logits"])}}
    batch = task.complete({name: value[None] for name, value in task.read(0, np.random.default_rng(0)).items()})
    run = jax.jit(task.loss)
    loss, (parts, _) = run(equal, Extras(stats, {}), batch, jax.random.key(0), jnp.zeros((), jnp.int32))
    assert float(loss) == pytest.approx(math.log(CODES), rel=1e-5)
    assert float(parts["bits_per_code"]) == pytest.approx(math.log2(CODES), rel=1e-5)
    losses = [float(run(params, Extras(stats, {}), batch, jax.random.key(i), jnp.zeros((), int))[0]) for i in (0, 1)]
    assert losses[0] != losses[1]  # dropout, which evaluation leaves out
    evaluated = dict(task.evaluate(equal))
    assert evaluated == pytest.approx({"loss": math.log(CODES), "bits_per_code": math.log2(CODES)}, rel=1e-5)
    assert list(task.evaluate(params)) == list(task.evaluate(params))


@pytest.mark.slow
def test_an_exported_model_generates_and_figures_show_it(make_task):
    task = make_task("sampling.guidance_scale=1.0")
    params = jax.device_get(jax.jit(task.init)(jax.random.key(0))[0])
    bundle = task.export(params)
    assert bundle.config["head"] == "autoregressive" and bundle.config["transformer"] == task.settings
    images = Generator.load(bundle).sample(["a red boat"], condition="text").images
    assert images.shape == (1, 16, 16, 3)
    ((name, sheet),) = task.figures(params)
    assert name == "samples" and sheet.dtype == np.uint8


def test_a_first_stage_without_a_codebook_is_refused(make_diffusion_task, make_task):
    kl = make_diffusion_task().base.path
    with pytest.raises(UserError, match="the first stage of 'tiny' has no codebook"):
        make_task(f"base={kl}")
