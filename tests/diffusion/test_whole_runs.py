"""Whole sampling runs and the training loss, with the original's U-Net weights, against the original's outputs."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from rdm_jax.convert.compvis import unet_params, unet_source
from rdm_jax.convert.mapping import disassemble
from rdm_jax.convert.torch_file import read_state_dict
from rdm_jax.core import trees
from rdm_jax.diffusion.denoiser import make_denoiser
from rdm_jax.diffusion.objective import diffusion_loss
from rdm_jax.diffusion.samplers import base, ddim, num_steps, sample
from rdm_jax.diffusion.samplers.plms import PLMS
from rdm_jax.diffusion.schedule import scaled_linear
from rdm_jax.guidance.classifier_free import classifier_free_denoiser
from rdm_jax.models.condition import Condition
from rdm_jax.models.unet import UNet
from rdm_jax.training.step import ema_decay, make_optimizer

GOLDEN = os.environ.get("RDM_GOLDEN")
SCHEDULE = scaled_linear(1000, 0.0015, 0.015)
UNET = UNet(
    in_channels=16,
    out_channels=16,
    model_channels=32,
    channel_mult=(1, 1, 1, 2),
    num_res_blocks=2,
    attention_resolutions=(4, 2, 1),
    num_head_channels=16,
    context_dim=32,
)

pytestmark = pytest.mark.skipif(not GOLDEN, reason="RDM_GOLDEN is not set")


@pytest.fixture(autouse=True)
def _full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@functools.cache
def _params(ema: bool):
    return jax.device_put(unet_params(read_state_dict(Path(GOLDEN) / "rdm_small.ckpt"), UNET, ema=ema))


def _apply(params):
    return lambda x, t, context: UNET.apply({"params": params}, x, t, Condition(context))


def _run(sampler, plan, golden):
    """Returns the end of a run, the parameters an argument of its program: constants would be folded for long."""
    context, scale = golden["context"], float(golden["scale"])

    @jax.jit
    def run(params, x_T):
        if scale == 1:
            denoiser = make_denoiser(_apply(params), context, "eps")
        else:
            denoiser = classifier_free_denoiser(
                _apply(params), context, jnp.zeros_like(context), jnp.float32(scale), "eps"
            )
        return sample(sampler, plan, x_T, denoiser)

    return run(_params(True), golden["x_T"])


def _golden(name):
    arrays = np.load(Path(GOLDEN) / f"{name}.npz")
    return {key: jnp.asarray(np.moveaxis(a, -3, -1) if a.ndim >= 4 else a) for key, a in arrays.items()}


@pytest.mark.parametrize(
    ("name", "steps", "eta"),
    [("ddim", 10, 0.0), ("ddim_eta1", 10, 1.0), ("ddim_noguidance", 5, 0.0), ("ddim_S30", 30, 0.0)],
)
@pytest.mark.slow
def test_ddim_ends_where_the_original_does(name, steps, eta, monkeypatch):
    golden = _golden(name)
    sampler = ddim.DDIM(eta=eta)
    plan = sampler.plan(SCHEDULE, steps)
    if eta:
        # The original's noise in place of ours: a key's number is its step.
        shape = (num_steps(plan), golden["x_T"].shape[0])
        keys = jax.vmap(jax.random.key)(jnp.arange(shape[0]))
        plan = plan.replace(keys=jnp.repeat(keys, shape[1]).reshape(shape))
        monkeypatch.setattr(
            base, "normal", lambda keys, shape: golden["noises"][jax.random.key_data(keys)[0, -1]].astype(jnp.float32)
        )
    last = _run(sampler, plan, golden)
    np.testing.assert_allclose(last, golden["samples"], atol=1e-3 * np.abs(golden["samples"]).max())


@pytest.mark.slow
def test_plms_ends_where_the_original_does():
    golden = _golden("plms")
    last = _run(PLMS(), PLMS().plan(SCHEDULE, 10), golden)
    np.testing.assert_allclose(last, golden["samples"], atol=1e-3 * np.abs(golden["samples"]).max())


def test_the_training_loss_is_the_originals():
    golden = _golden("train_step")
    t = golden["t"].astype(jnp.int32)
    x0, context, noise = golden["x0"], golden["context"], golden["noise"]
    losses = jax.jit(lambda params: diffusion_loss(_apply(params), x0, context, t, noise, SCHEDULE, "eps"))
    loss = losses(_params(False))
    assert loss.shape == (2,)
    assert loss.mean() == pytest.approx(float(golden["loss"]), rel=1e-5)
    bound = loss * jnp.asarray(SCHEDULE.vlb_weights, jnp.float32)[t]
    assert bound.mean() == pytest.approx(float(golden["train__loss_vlb"]), rel=1e-4)


@pytest.mark.slow
def test_gradients_one_step_of_adamw_and_the_average_are_the_originals():
    golden = np.load(Path(GOLDEN) / "train_step.npz")
    x0, noise = (jnp.asarray(np.moveaxis(golden[name], 1, -1)) for name in ("x0", "noise"))
    t, context = jnp.asarray(golden["t"], jnp.int32), jnp.asarray(golden["context"])

    def loss(params):
        return diffusion_loss(_apply(params), x0, context, t, noise, SCHEDULE, "eps").mean()

    params = _params(False)
    grads = jax.jit(jax.grad(loss))(params)
    assert float(optax.tree.norm(grads)) == pytest.approx(float(golden["grad_norm"]), rel=1e-5)
    settings = {"learning_rate": 1e-4, "warmup": 0, "decay": "constant", "clip_norm": 1e9, "b1": 0.9, "b2": 0.999}
    tx = make_optimizer(ConfigDict({**settings, "kind": "adamw", "weight_decay": 1e-2, "frozen": ()}), 1)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    # The recorded weights were multiplied by 1.1 after the step, so that the average changes visibly.
    after = jax.tree.map(lambda p, u: 1.1 * (p + u), params, updates)
    average = params
    for n in range(1, 4):
        average = optax.incremental_update(after, average, 1.0 - ema_decay(jnp.asarray(n), 0.9999))
    found = {"grad": grads, "adamw1": after, "ema3": average}
    for kind, tree in found.items():
        flat = {path: np.asarray(leaf) for path, leaf in trees.flatten(tree).items()}
        tensors = disassemble(flat, unet_source(UNET))
        names = [name.removeprefix(f"{kind}:") for name in golden if name.startswith(f"{kind}:")]
        assert len(names) >= 3
        for name in names:
            wanted = golden[f"{kind}:{name}"]
            tolerance = 2e-5 * np.abs(wanted).max()
            np.testing.assert_allclose(
                tensors[f"model.{name}"].read(), wanted, atol=tolerance, err_msg=f"{kind} {name}"
            )
