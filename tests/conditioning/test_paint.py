"""Paint with words: the logits of painted pixels, the weight by the noise, and what does not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.conditioning import Paint
from rdm_jax.conditioning.alignment import align
from rdm_jax.conditioning.base import Context, ScheduledCondition, interpolate
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.models.attention import Attention, largest_logit
from rdm_jax.models.condition import Condition
from tests.helpers import tiny


def values(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_the_logits_of_painted_pixels_grow_by_the_largest_one():
    module, x, context = Attention(2, 4), values(2, 6, 8), values(2, 3, 5, seed=1)
    params = jax.jit(module.init)(jax.random.key(0), x, context)
    paint = jnp.abs(values(2, 6, 3, seed=2))
    given = {name: np.asarray(params["params"][name]["kernel"], np.float64) for name in ("query", "key", "value")}
    q, k, v = ((np.asarray(x if name == "query" else context) @ kernel) for name, kernel in given.items())
    expected = []
    for i in range(2):
        heads = [slice(4 * head, 4 * head + 4) for head in range(2)]
        logits = np.stack([q[i][:, part] @ k[i][:, part].T / 2.0 for part in heads])
        weighed = np.exp(logits + logits.max() * np.asarray(paint)[i])
        weighed /= weighed.sum(axis=-1, keepdims=True)
        expected.append(np.concatenate([weighed[head] @ v[i][:, part] for head, part in enumerate(heads)], axis=-1))
    last = jax.tree.map(np.asarray, params["params"]["out"])
    out = module.apply(params, x, context, None, None, paint)
    np.testing.assert_allclose(out, np.stack(expected) @ last["kernel"] + last["bias"], atol=1e-5)
    np.testing.assert_allclose(
        module.apply(params, x, context, None, None, 0 * paint), module.apply(params, x, context), atol=1e-6
    )
    q, k = values(1, 6, 2, 4), values(1, 3, 2, 4, seed=3)
    np.testing.assert_allclose(largest_logit(q, k)[0], np.einsum("nhd,mhd->hnm", q[0], k[0]).max() / 2, rtol=1e-5)


def test_the_weight_is_the_logarithm_of_the_noise():
    condition = ScheduledCondition(np.ones((1, 2, 3), np.float32), paint=np.full((1, 2, 2, 2), 0.5, np.float32))
    for sigma, expected in ((0.0, 0.0), (1.0, np.log(2.0)), (9.0, np.log(10.0)), (1e6, np.log(81.0))):
        alpha = 1.0 / np.sqrt(1.0 + sigma**2)
        at = interpolate(condition, jnp.float32(1), jnp.float32(alpha), jnp.float32(sigma * alpha))
        np.testing.assert_allclose(at.paint, 0.5 * expected, rtol=1e-4)
    noise = interpolate(condition, jnp.float32(1), jnp.float32(0), jnp.float32(1))
    np.testing.assert_allclose(noise.paint, 0.5 * np.log(81.0), rtol=1e-5)


def test_other_conditions_are_painted_nowhere():
    paint = np.ones((1, 2, 2, 1), np.float32)
    given = ScheduledCondition(np.ones((1, 3, 4), np.float32), paint=paint)
    null = ScheduledCondition(np.zeros((1, 1, 4), np.float32))
    aligned = align(Context(given, null))
    np.testing.assert_array_equal(aligned.given.paint, np.concatenate([paint, 0 * paint, 0 * paint], axis=-1))
    np.testing.assert_array_equal(aligned.null.paint, np.zeros((1, 2, 2, 3)))


@pytest.fixture(scope="module")
def mask(tmp_path_factory):
    from PIL import Image

    file = tmp_path_factory.mktemp("mask") / "left.png"
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8] = 255
    Image.fromarray(pixels).save(file)
    return str(file)


def test_paint_is_planned_where_the_mask_is_white(mask):
    plan = Generator.load(tiny.bundle()).plan(
        ["a red boat"], condition="text", conditions=[Paint(mask=mask, prompt="a blue tree", weight=0.25)]
    )
    paint = plan.context.given.paint
    assert paint.shape == (1, 8, 8, 2)
    np.testing.assert_array_equal(paint[0, :, :4, 1], 0.25)
    assert not paint[0, :, 4:].any() and not paint[..., 0].any() and not plan.context.null.paint.any()
    np.testing.assert_array_equal(plan.context.given.weights, [[1.0, 1.0]])


@pytest.mark.slow
def test_paint_of_weight_zero_only_adds_its_tokens(mask):
    generator = Generator.load(tiny.bundle())

    def sample(weight):
        paint = Paint(mask=mask, prompt="a blue tree", weight=weight)
        return generator.sample(["a red boat"], condition="text", conditions=[paint], steps=2, seed=1).images.astype(
            int
        )

    before = sample(0.0)
    assert (sample(500.0) != before).any() and generator.compilations == 1


def test_what_cannot_be_painted_is_one_line(mask):
    generator = Generator.load(tiny.bundle())
    for paint, message in (
        (Paint(prompt="a"), "mask is missing"),
        (Paint(mask=mask, prompt="a", weight=-1.0), "weight -1 of paint is out of range"),
    ):
        with pytest.raises(UserError, match=message):
            generator.plan(["a red boat"], condition="text", conditions=[paint])
    dit = tiny.bundle(
        denoiser={
            "kind": "dit",
            "in_channels": 2,
            "out_channels": 2,
            "latent_size": 8,
            "patch_size": 2,
            "width": 16,
            "depth": 1,
            "heads": 2,
            "context_dim": tiny.WIDTH,
        }
    )
    with pytest.raises(UserError, match=r"condition paint needs tokens painted on pixels, .* a dit, does not"):
        Generator.load(dit).plan(["a"], condition="text", conditions=[Paint(mask=mask, prompt="b")])
    assert "paint" in Condition(paint=1).features
