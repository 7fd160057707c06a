"""The adversarial losses against what the original programs computed, and against their definitions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.models.autoencoder import kl_divergence
from rdm_jax.models.discriminator import PatchDiscriminator
from rdm_jax.training import adversarial

KL_WEIGHT = 1e-6
DISC_WEIGHT = {"kl": 0.5, "vq": 0.75}


@pytest.fixture(scope="module")
def data(golden):
    return np.load(golden / "ae_losses.npz")


def _nhwc(array):
    return jnp.asarray(array.transpose(0, 2, 3, 1))


@pytest.fixture(scope="module")
def variables(data):
    """The discriminator's parameters and running means, from the original's names."""
    params, stats = {}, {}
    for layer, number in enumerate((0, 2, 5, 8, 11)):
        conv = {"kernel": data[f"disc:main.{number}.weight"].transpose(2, 3, 1, 0)}
        if f"disc:main.{number}.bias" in data:
            conv["bias"] = data[f"disc:main.{number}.bias"]
        params["conv_out" if number == 11 else f"conv_{layer}"] = conv
    for layer, number in enumerate((3, 6, 9), 1):
        names = {"scale": "weight", "bias": "bias"}
        params[f"norm_{layer}"] = {ours: data[f"disc:main.{number}.{theirs}"] for ours, theirs in names.items()}
        stats[f"norm_{layer}"] = {ours: data[f"disc:main.{number}.running_{ours}"] for ours in ("mean", "var")}
    return jax.tree.map(jnp.asarray, {"params": params, "batch_stats": stats})


def _logits(variables, x):
    return PatchDiscriminator().apply(variables, x, train=True, mutable=["batch_stats"])[0]


@pytest.mark.slow
def test_the_discriminator_is_the_original(data, variables):
    shapes = jax.eval_shape(lambda: PatchDiscriminator().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)
    x = _nhwc(data["inputs"])
    train, test = _logits(variables, x), PatchDiscriminator().apply(variables, x)
    np.testing.assert_allclose(train, _nhwc(data["disc_logits_trainmode"]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(test, _nhwc(data["disc_logits_evalmode"]), rtol=1e-4, atol=1e-4)


def _reconstruct(data, kernel):
    """The decoder's last convolution, the only part of it that the losses' balance looks at."""
    same = ((1, 1), (1, 1))
    out = jax.lax.conv_general_dilated(
        _nhwc(data["feat"]), kernel, (1, 1), same, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return out + jnp.asarray(data["last_b"])[None, None, None]


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 101])
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_the_losses_are_the_originals(data, variables, kind, step):
    wanted = {name.removeprefix(f"{kind}_s{step}_"): data[name] for name in data if name.startswith(f"{kind}_s{step}_")}
    image, kernel = _nhwc(data["inputs"]), jnp.asarray(data["last_w"].transpose(2, 3, 1, 0))

    def reconstruction(kernel):
        error = jnp.abs(_reconstruct(data, kernel) - image)
        return adversarial.negative_log_likelihood(error, 0.0) if kind == "kl" else jnp.mean(error)

    def generator(kernel):
        return adversarial.generator_loss(_logits(variables, _reconstruct(data, kernel)))

    weight = DISC_WEIGHT[kind] * adversarial.adaptive_weight(reconstruction, generator, kernel)
    factor = adversarial.delayed(step, 100)
    beside = KL_WEIGHT * jnp.mean(kl_divergence(_nhwc(data["moments"]))) if kind == "kl" else wanted["o0_quant_loss"]
    total = reconstruction(kernel) + factor * weight * generator(kernel) + beside
    real, fake = _logits(variables, image), _logits(variables, _reconstruct(data, kernel))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    close(reconstruction(kernel), wanted["o0_nll_loss"])
    close(generator(kernel), wanted["o0_g_loss"])
    close(weight, wanted["o0_d_weight"])
    close(factor, wanted["o0_disc_factor"])
    close(total, wanted["o0_total_loss"])
    close(real.mean(), wanted["o1_logits_real"])
    close(fake.mean(), wanted["o1_logits_fake"])
    close(factor * adversarial.hinge_loss(real, fake), wanted["o1_disc_loss"])


def test_running_means_go_a_tenth_of_the_way():
    x = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    network = PatchDiscriminator(ch=4, num_layers=2)
    variables = network.init(jax.random.key(1), x)
    _, state = network.apply(variables, x, train=True, mutable=["batch_stats"])
    h = jax.nn.leaky_relu(
        jax.lax.conv_general_dilated(
            x,
            variables["params"]["conv_0"]["kernel"],
            (2, 2),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
        0.2,
    )
    h = jax.lax.conv_general_dilated(
        h, variables["params"]["conv_1"]["kernel"], (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    mean, var = h.mean((0, 1, 2)), h.var((0, 1, 2))
    np.testing.assert_allclose(state["batch_stats"]["norm_1"]["mean"], 0.1 * mean, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(state["batch_stats"]["norm_1"]["var"], 0.9 + 0.1 * var, rtol=1e-3)


def test_the_weight_balances_two_pulls():
    kernel = jnp.array([3.0, 4.0])
    weight = adversarial.adaptive_weight(lambda k: 2.0 * jnp.sum(k**2), lambda k: jnp.sum(k), kernel)
    np.testing.assert_allclose(weight, 20.0 / (np.sqrt(2.0) + 1e-4), rtol=1e-6)
    assert adversarial.adaptive_weight(lambda k: 1e9 * jnp.sum(k), lambda k: 0.0 * jnp.sum(k), kernel) == 1e4
    gradient = jax.grad(lambda k: adversarial.adaptive_weight(jnp.sum, lambda k: jnp.sum(k**2), k))(kernel)
    np.testing.assert_array_equal(gradient, 0.0)


def test_the_hinge_is_nothing_where_the_sides_are_apart():
    real, fake = jnp.full((1, 2, 2, 1), 1.5), jnp.full((1, 2, 2, 1), -1.0)
    assert adversarial.hinge_loss(real, fake) == 0.0
    assert adversarial.hinge_loss(fake, real) == 0.5 * (2.0 + 2.5)
