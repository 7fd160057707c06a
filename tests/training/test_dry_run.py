import dataclasses
import itertools
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rdm_jax.core.errors import UserError
from rdm_jax.training import dry_run as dry
from rdm_jax.training.flops import Counts
from rdm_jax.training.hardware import CHIPS, Chip
from rdm_jax.training.roofline import Bytes, Collective, Prediction, find_collectives, roofline

MESHES = [(1, 1), (8, 1), (1, 8), (4, 8), (8, 8), (32, 8)]


@flax.struct.dataclass
class State:
    step: Any
    params: Any
    ema: Any
    opt_state: Any


TX = optax.adam(1e-3)


def init() -> State:
    params = {"large": jnp.zeros((64, 128)), "small": jnp.zeros((128, 3)), "bias": jnp.zeros((3,))}
    return State(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), TX.init(params))


def train_step(state, frozen, batch):
    def loss(params):
        h = jnp.tanh(batch["x"] @ frozen["in"] @ params["large"])
        return jnp.mean(jnp.square(h @ params["small"] + params["bias"][None] - batch["y"]))

    value, grads = jax.value_and_grad(loss)(state.params)
    updates, opt_state = TX.update(grads, state.opt_state)
    params = optax.apply_updates(state.params, updates)
    ema = optax.incremental_update(params, state.ema, 0.01)
    return State(state.step + 1, params, ema, opt_state), {"loss": value}


def shardings(mesh, tree):
    """Splits arrays of 64 rows over fsdp."""

    def place(leaf):
        split = leaf.ndim == 2 and leaf.shape[0] == 64 and mesh.shape["fsdp"] > 1
        return NamedSharding(mesh, PartitionSpec("fsdp") if split else PartitionSpec())

    return jax.tree.map(place, tree)


FROZEN = {"in": jax.ShapeDtypeStruct((16, 64), jnp.float32)}


def batch(size):
    return {name: jax.ShapeDtypeStruct((size, n), jnp.float32) for name, n in {"x": 16, "y": 3}.items()}


def report(mesh=(4, 8), each=2, **settings):
    return dry.dry_run(init, train_step, FROZEN, batch(math.prod(mesh) * each), shardings, mesh, **settings)


LARGE, REST = 4 * 64 * 128, 4 * (128 * 3 + 3)


def test_bytes_are_those_of_the_shards() -> None:
    memory = report().memory
    shards = LARGE // 8 + REST
    assert memory.parameters == memory.ema == memory.gradients == shards
    assert memory.optimizer == 2 * shards + 4  # two moments and a counter
    assert memory.other == 4 + 4 * 16 * 64 + 4 * 2 * (16 + 3)  # the step, what is frozen, two examples
    assert memory.gathered == 2 * LARGE
    assert memory.state == 4 * shards + 4
    assert memory.total == sum(dataclasses.astuple(memory))


def test_one_device_holds_everything() -> None:
    memory = report((1, 1)).memory
    assert (memory.parameters, memory.gathered) == (LARGE + REST, 0)
    # The two layers' values and their gradients, [2, 128] and [2, 3], are next to nothing.
    assert memory.activations < 8 * 4 * 2 * 128


def test_activations_grow_with_the_batch() -> None:
    few, many = report(each=64).memory, report(each=512).memory
    assert many.activations > 7 * few.activations
    assert many.state == few.state


def test_work_is_that_of_one_device() -> None:
    got = report(each=2)
    forward = [2 * 2 * 16 * 64, 2 * 2 * 64 * 128, 2 * 2 * 128 * 3]
    # Frozen and first: no gradient; then the gradient of `large` alone; then those of both.
    assert got.counts.flops == forward[0] + 2 * forward[1] + 3 * forward[2]
    assert got.counts == report((1, 1), each=2).counts
    assert (got.parameters, got.batch_size) == ((LARGE + REST) // 4, 64)


def test_collectives_by_hand() -> None:
    got = {one.what: one.sent({"data": 4, "fsdp": 8}) for one in report().collectives}
    assert got == {
        "gather parameters": 2 * 7 / 8 * LARGE,
        "scatter gradients": 7 / 8 * LARGE,
        "sum scattered gradients": 2 * 3 / 4 * LARGE / 8,
        "sum whole gradients": 2 * 31 / 32 * REST,
    }
    assert report().sent == pytest.approx(sum(got.values()))
    assert report((1, 1)).collectives == ()
    assert {one.what for one in report((8, 1)).collectives} == {"sum whole gradients"}
    assert report((8, 1)).sent == 2 * 7 / 8 * (LARGE + REST)


def test_collectives_follow_the_shardings() -> None:
    params = jax.eval_shape(init).params
    mesh = {"data": 2, "fsdp": 4}
    whole = NamedSharding(dry.abstract_mesh((2, 4)), PartitionSpec())
    (one,) = find_collectives(params, jax.tree.map(lambda _: whole, params), mesh)
    assert one == Collective("sum whole gradients", ("data", "fsdp"), LARGE + REST, 2)


CHIP = Chip("test", 100.0, 50.0, 10**6, 10.0, 8.0, 4, 2.0)


def test_rings_within_a_domain_and_between_domains() -> None:
    total = Collective("", ("data", "fsdp"), 64, 2)
    assert total.seconds({"data": 1, "fsdp": 1}, CHIP) == 0
    assert total.seconds({"data": 2, "fsdp": 2}, CHIP) == 2 * 3 / 4 * 64 / 8
    assert total.seconds({"data": 4, "fsdp": 2}, CHIP) == 2 * (3 / 4 * 64 / 8 + 1 / 2 * 16 / 2)
    # Where fsdp fills the domain, neighbors along data are in other domains.
    across = Collective("", ("data",), 64, 2)
    assert across.seconds({"data": 2, "fsdp": 4}, CHIP) == 2 * 1 / 2 * 64 / 2
    assert across.seconds({"data": 2, "fsdp": 2}, CHIP) == 2 * 1 / 2 * 64 / 8


def test_a_roofline_by_hand() -> None:
    memory = Bytes(10, 10, 20, 5, 10, 0, 30)
    total = Collective("", ("data",), 64, 2)
    got = roofline(Counts(300.0, 100.0, 100.0), memory, [total], {"data": 4, "fsdp": 1}, CHIP)
    assert got.compute == 200 / 100 + 100 / 50
    assert got.memory == (100 + 2 * 40 + 2 * 10) / 10
    assert got.network == 12
    assert (got.work, got.seconds, got.overlapped, got.bound) == (20, 32, 20, "memory")
    assert (got.efficiency, got.efficiency_overlapped) == (20 / 32, 1.0)
    assert (
        got.fits
        and not roofline(Counts(), memory, [], {"data": 1, "fsdp": 1}, dataclasses.replace(CHIP, memory=84)).fits
    )


@pytest.mark.parametrize("each", [1, 64])
def test_efficiency_is_one_on_a_chip_and_never_rises(each) -> None:
    for fsdp in (1, 8, 64):
        got = report((256 // fsdp, fsdp), each, chip_counts=[2**i for i in range(13)])
        assert set(got.scaling) == set(CHIPS)
        for row in got.scaling.values():
            assert [n for n, _ in row] == [2**i for i in range(13)]
            for kind in ("efficiency", "efficiency_overlapped"):
                values = [getattr(one, kind) for _, one in row]
                assert values[0] == 1
                assert all(a >= b for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("field", ["bfloat16", "float32", "memory_bandwidth", "link_bandwidth", "network_bandwidth"])
@pytest.mark.parametrize("mesh", MESHES)
def test_no_faster_part_makes_a_step_slower(field, mesh) -> None:
    def seconds(factor: float) -> tuple[float, float]:
        chips = [dataclasses.replace(chip, **{field: factor * getattr(chip, field)}) for chip in CHIPS.values()]
        got: tuple[Prediction, ...] = report(mesh, chips=chips, chip_counts=()).predictions
        return tuple(one.seconds for one in got), tuple(one.overlapped for one in got)

    for slow, fast in zip(seconds(1.0), seconds(3.0), strict=True):
        assert all(b <= a for a, b in zip(slow, fast, strict=True))


def test_the_table_has_every_number() -> None:
    text = dry.table(report())
    assert "32 devices, data 4 x fsdp 8, a batch of 64" in text
    assert "analytic" in text
    for word in ("parameters", "optimizer", "activations", "total", "gather parameters", *CHIPS):
        assert word in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_the_table_of_a_tiny_model_has_times_above_zero() -> None:
    chip = dataclasses.replace(CHIP, name="small")
    times = Prediction(chip, compute=3.77e-7, memory=1.684e-6, network=12.5, fits=True)
    idle = Prediction(chip, compute=2.5e-9, memory=0.0, network=0.0, fits=True)
    text = dry.table(dataclasses.replace(report(), predictions=(times, idle)))
    row, idle_row = (line.split() for line in text.splitlines() if line.split()[:1] == ["small"])
    assert row[1:7] == ["377.0", "ns", "1.68", "us", "12,500.0", "ms"]
    assert idle_row[1:5] == ["2.50", "ns", "0", "0"]


def test_meshes_and_batches_that_do_not_fit() -> None:
    assert dry.parse_mesh("32x8") == (32, 8)
    for wrong in ("32", "32x8x2", "ax8", "0x8", "32x-1"):
        with pytest.raises(UserError, match="32x8 for 256"):
            dry.parse_mesh(wrong)
    with pytest.raises(UserError, match="a batch of 33 is not divided by 32 devices"):
        dry.dry_run(init, train_step, FROZEN, batch(33), shardings, (4, 8))


def test_compiling_needs_libtpu(monkeypatch) -> None:
    monkeypatch.setattr(dry.importlib.util, "find_spec", lambda name: None)
    assert dry.tpu_topology(256) is None
    with pytest.raises(UserError, match="install libtpu"):
        report(topology="v5e:16x16")
