import math

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from rdm_jax.models.attention import Attention, SpatialTransformer
from rdm_jax.models.layers import ResBlock
from rdm_jax.training.flops import Counts, count
from rdm_jax.training.liveness import peak_bytes

f32, bf16 = jnp.float32, jnp.bfloat16


def shape(*sizes, dtype=f32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def by_xla(function, *arguments) -> float:
    """Returns what XLA counts in the function as it is given, before it optimizes."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def test_a_product_has_two_operations_for_each_pair() -> None:
    got = count(lambda x, w: x @ w, shape(8, 32), shape(32, 16))
    flops = 2.0 * 8 * 32 * 16
    assert got == Counts(flops, flops, 4.0 * (8 * 32 + 32 * 16 + 8 * 16), 0)
    assert got.flops == by_xla(lambda x, w: x @ w, shape(8, 32), shape(32, 16))


def test_products_of_bfloat16_are_counted_separately() -> None:
    def product(x, w):
        return jnp.einsum("ab,bc->ac", x, w, preferred_element_type=f32)

    got = count(product, shape(8, 32, dtype=bf16), shape(32, 16, dtype=bf16))
    assert (got.flops, got.float32_flops) == (2 * 8 * 32 * 16, 0)
    assert got.bytes == 2 * (8 * 32 + 32 * 16) + 4 * 8 * 16


def test_batched_products() -> None:
    assert count(lambda q, k: jnp.einsum("bnhd,bmhd->bhnm", q, k), shape(2, 7, 3, 5), shape(2, 11, 3, 5)).flops == (
        2 * 2 * 3 * 7 * 11 * 5
    )


CONVOLUTIONS = {
    "valid": dict(window_strides=(1, 1), padding="VALID"),
    "same": dict(window_strides=(1, 1), padding="SAME"),
    "strided": dict(window_strides=(2, 2), padding=((1, 1), (0, 1))),
    "dilated": dict(window_strides=(1, 1), padding="SAME", rhs_dilation=(2, 1)),
    "transposed": dict(window_strides=(1, 1), padding=((2, 2), (1, 2)), lhs_dilation=(2, 2)),
    "groups": dict(window_strides=(1, 1), padding="SAME", feature_group_count=4),
}


def convolve(x, kernel, **settings):
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **settings)


@pytest.mark.parametrize("settings", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions_and_their_gradients_are_what_xla_counts(settings) -> None:
    x, kernel = shape(2, 9, 10, 8), shape(3, 3, 8 // settings.get("feature_group_count", 1), 12)

    def forward(x, kernel):
        return convolve(x, kernel, **settings)

    def backward(x, kernel, out):
        return jax.vjp(forward, x, kernel)[1](out)

    assert count(forward, x, kernel).flops == pytest.approx(by_xla(forward, x, kernel), rel=0.02)
    out = jax.eval_shape(forward, x, kernel)
    assert count(backward, x, kernel, out).flops == pytest.approx(by_xla(backward, x, kernel, out), rel=0.02)


def test_a_valid_convolution_in_closed_form() -> None:
    got = count(lambda x, k: convolve(x, k, **CONVOLUTIONS["valid"]), shape(2, 9, 10, 8), shape(3, 3, 8, 12))
    assert got.flops == 2 * 2 * 7 * 8 * 12 * 3 * 3 * 8


def test_padding_is_no_work() -> None:
    # Of the 9 outputs of a 3x3 image, the middle one meets 9 pixels, four meet 6 and four corners 4.
    got = count(lambda x, k: convolve(x, k, **CONVOLUTIONS["same"]), shape(1, 3, 3, 1), shape(3, 3, 1, 1))
    assert got.flops == 2 * (9 + 4 * 6 + 4 * 4)


def test_convolutions_with_groups_of_examples() -> None:
    settings = dict(window_strides=(1, 1), padding="VALID", batch_group_count=2)
    arguments = shape(4, 5, 5, 3), shape(3, 3, 3, 6)
    got = count(lambda x, k: convolve(x, k, **settings), *arguments).flops
    assert got == 2 * 2 * 3 * 3 * 6 * 3 * 3 * 3  # two examples of 3x3 pixels and six channels from 27 numbers each


def test_a_gradient_costs_twice_the_product() -> None:
    def loss(w, x):
        return jnp.sum(jnp.square(x @ w))

    assert count(jax.grad(loss, (0, 1)), shape(32, 16), shape(8, 32)).flops == 3 * (2 * 8 * 32 * 16)
    assert count(jax.grad(loss), shape(32, 16), shape(8, 32)).flops == 2 * (2 * 8 * 32 * 16)


def test_rematerialization_counts_what_is_computed_again() -> None:
    def block(w, x):
        return jnp.tanh(jnp.tanh(x @ w) @ w)

    def cost(function):
        return count(jax.value_and_grad(lambda w, x: jnp.sum(function(w, x))), shape(16, 16), shape(8, 16)).flops

    product = 2 * 8 * 16 * 16
    assert cost(block) == 5 * product  # two forward, two for w, one for what is between
    assert cost(jax.checkpoint(block)) == 7 * product


def test_loops() -> None:
    product = 2 * 8 * 16 * 16
    x, w = shape(8, 16), shape(16, 16)
    assert count(lambda x, w: jax.lax.scan(lambda c, _: (c @ w, None), x, length=5), x, w).flops == 5 * product
    assert count(lambda x, w: jax.lax.map(lambda row: row @ w, x), x, w).flops == product
    assert count(lambda x, w: jax.lax.fori_loop(0, 3, lambda _, c: c @ w, x), x, w).flops == 3 * product
    unknown = count(lambda x, w: jax.lax.while_loop(lambda c: c[0, 0] < 1, lambda c: c @ w, x), x, w)
    assert (unknown.flops, unknown.unknown_loops) == (product, 1)


def test_branches() -> None:
    x, w = shape(8, 8), shape(8, 8)
    product = 2 * 8**3
    assert count(lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x), x, w).flops == 2 * product

    def by_platform(x, w):
        return jax.lax.platform_dependent(x, w, cpu=lambda x, w: x @ w @ w @ w, default=lambda x, w: x @ w)

    assert count(by_platform, x, w, platform="tpu").flops == product
    assert count(by_platform, x, w, platform="cpu").flops == 3 * product


def test_calls_within_calls_and_devices() -> None:
    mesh = jax.make_mesh((2, 1), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = jax.P("data")
    product = jax.jit(jax.checkpoint(lambda x: jax.nn.relu(x @ jnp.ones((16, 4)))))
    assert count(product, shape(8, 16)).flops == 2 * 8 * 16 * 4
    split = jax.shard_map(product, mesh=mesh, in_specs=spec, out_specs=spec)
    assert count(split, shape(8, 16)).flops == 2 * 8 * 16 * 4


def apply_shapes(module, *arguments):
    """Returns (apply, its abstract arguments)."""
    params = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    return module.apply, (params, *arguments)


def test_attention_in_closed_form_and_by_xla() -> None:
    b, n, m, heads, d, c = 2, 24, 5, 2, 32, 40
    apply, arguments = apply_shapes(Attention(heads, d, "xla"), shape(b, n, c), shape(b, m, c))
    projections = 2 * b * heads * d * c * (2 * n + 2 * m)
    got = count(apply, *arguments).flops
    assert got == projections + 2 * (2 * b * heads * n * m * d)
    assert got == pytest.approx(by_xla(apply, *arguments), rel=0.03)  # XLA counts the softmax too


class Stage(nn.Module):
    """What a U-Net is made of."""

    @nn.compact
    def __call__(self, x, context):
        for i in range(2):
            x = ResBlock(32, name=f"res_{i}")(x)
        x = SpatialTransformer(16, implementation="xla", name="attention")(x, context)
        return ResBlock(64, name="last")(x)


def stage_loss(batch):
    apply, arguments = apply_shapes(Stage(), shape(batch, 16, 16, 32), shape(batch, 3, 16))
    return lambda *a: jnp.mean(jnp.square(apply(*a))), arguments


def test_a_network_and_its_gradient_are_what_xla_counts() -> None:
    loss, arguments = stage_loss(batch=2)
    function = jax.value_and_grad(loss)
    # Lowered for a TPU, not compiled: XLA then counts the mathematics, of elementwise work a little too.
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("tpu",))
    assert count(function, *arguments).flops == pytest.approx(lowered.cost_analysis()["flops"], rel=0.05)


def test_liveness_of_a_chain_of_products() -> None:
    def chain(x, w):
        return jnp.sum(x @ w @ w @ w)

    assert peak_bytes(chain, shape(8, 16), shape(16, 16)) == 2 * 4 * 8 * 16  # one product's operand and result


def test_liveness_of_what_the_backward_pass_needs() -> None:
    def loss(w, x):
        for _ in range(6):
            x = jnp.tanh(x @ w)
        return jnp.sum(x)

    x, w = shape(512, 16), shape(16, 16)
    kept = peak_bytes(jax.grad(loss), w, x)
    assert 6 * 4 * 512 * 16 <= kept <= 2 * 6 * 4 * 512 * 16
    assert peak_bytes(loss, w, x) <= 2 * 4 * 512 * 16
    assert peak_bytes(jax.grad(jax.checkpoint(loss)), w, x) == pytest.approx(kept, rel=0.4)


def test_liveness_fuses_elementwise_work_and_updates_in_place() -> None:
    def adam(p, m, g):
        m = 0.9 * m + 0.1 * jnp.square(g)
        return p - g / (jnp.sqrt(m / 0.1) + 1e-8), m

    assert peak_bytes(adam, shape(64, 64), shape(64, 64), shape(64, 64)) == 0


def test_liveness_of_loops_is_that_of_one_round() -> None:
    def looped(x, w):
        return jax.lax.scan(lambda c, _: (jnp.tanh(jnp.tanh(c @ w) @ w), None), x, length=100)[0]

    assert peak_bytes(looped, shape(64, 16), shape(16, 16)) <= 4 * 4 * 64 * 16


def test_liveness_is_within_a_factor_of_two_of_what_xla_allocates() -> None:
    loss, arguments = stage_loss(batch=8)
    function = jax.grad(loss)
    compiled = jax.jit(function).lower(*arguments).compile()
    estimate = peak_bytes(function, *arguments, platform="cpu")
    assert 0.5 < estimate / compiled.memory_analysis().temp_size_in_bytes < 2


def test_liveness_takes_sizes_from_the_caller() -> None:
    def chain(x, w):
        return jnp.sum(x @ w @ w)

    whole = peak_bytes(chain, shape(8, 16), shape(16, 16))
    split = peak_bytes(chain, shape(8, 16), shape(16, 16), size=lambda value: math.prod(value.shape))
    assert split * 4 == whole


def test_dropout_and_dense_layers_count_their_products_alone() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.relu(nn.Dense(32)(x)))

    apply, arguments = apply_shapes(Net(), shape(5, 7))
    assert count(apply, *arguments).flops == 2 * 5 * (7 * 32 + 32 * 3)
