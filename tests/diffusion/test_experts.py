"""Experts: the tree of noise ranges, which network a time belongs to, and the times that one is trained on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.experts import Experts, arrange, interval, stack, stacked_shapes
from rdm_jax.diffusion.objective import TIME_DENSITIES, sample_timesteps


def test_the_ends_of_a_tree_leave_the_middle_to_the_undivided_model():
    # The ensemble of eDiff-I: an expert of the most noise, one of the least, and one network between.
    experts, used = arrange([(0.0, 1000.0), (0.0, 125.0), (998.0, 1000.0)], 1000)
    assert experts == Experts((125.0, 998.0), (1, 0, 2)) and used == [0, 1, 2]
    assert Experts.of({"experts": experts.section}) == experts and Experts.of({}) is None
    numbers = [int(experts.number(jnp.float32(t))) for t in (0, 124.5, 125, 997, 998, 999)]
    assert numbers == [1, 1, 0, 0, 2, 2]


def test_a_network_without_noise_left_is_dropped_and_one_may_have_two_ranges():
    experts, used = arrange([(0.0, 8.0), (0.0, 4.0), (4.0, 8.0)], 8)
    assert (experts, used) == (Experts((4.0,), (0, 1)), [1, 2])
    experts, used = arrange([(0.0, 8.0), (2.0, 4.0)], 8)
    assert (experts, used) == (Experts((2.0, 4.0), (0, 1, 0)), [0, 1])


NODES = st.integers(1, 5).flatmap(lambda level: st.tuples(st.just(level), st.integers(0, 2**level - 1)))


@given(nodes=st.lists(NODES, max_size=6))
def test_every_time_belongs_to_the_deepest_node_that_contains_it(nodes):
    ranges = [(0.0, 64.0), *((64 * a, 64 * b) for a, b in (interval(*node) for node in nodes))]
    experts, used = arrange(ranges, 64)
    for t in range(64):
        number = experts.networks[sum(t >= bound for bound in experts.bounds)]
        owner = used[number]
        assert ranges[owner][0] <= t < ranges[owner][1]
        inside = [end - begin for begin, end in ranges if begin <= t < end]
        assert ranges[owner][1] - ranges[owner][0] == min(inside)


@pytest.mark.slow
@pytest.mark.parametrize("density", TIME_DENSITIES)
def test_the_nodes_of_a_level_have_the_times_of_the_density_in_equal_parts(density):
    key = jax.random.key(3)
    whole = np.asarray(sample_timesteps(key, 4000, 1000, density))
    np.testing.assert_array_equal(whole, sample_timesteps(key, 4000, 1000, density, (0.0, 1.0)))
    for index in range(4):
        part = np.asarray(sample_timesteps(key, 500, 1000, density, interval(2, index)))
        ends = [float(TIME_DENSITIES[density](jnp.float32(end))) * 1000 for end in interval(2, index)]
        assert part.min() >= np.floor(ends[0]) and part.max() <= ends[1]
        assert np.mean((whole >= part.min()) & (whole <= part.max())) == pytest.approx(0.25, abs=0.02)


def test_parameters_are_stacked_and_indexed():
    trees = [{"a": np.full((2, 3), i, np.float32)} for i in range(3)]
    stacked, experts = stack(trees), Experts((10.0, 20.0), (0, 1, 2))
    assert stacked["a"].shape == (3, 2, 3)
    shapes = stacked_shapes({"a": jax.ShapeDtypeStruct((2, 3), jnp.float32)}, 3)
    assert shapes["a"].shape == (3, 2, 3)
    for t, expected in ((0, 0), (10, 1), (99, 2)):
        np.testing.assert_array_equal(experts.select(stacked, jnp.int32(t))["a"], trees[expected]["a"])


def test_damaged_experts_and_nodes_outside_the_tree_are_one_line():
    for bounds, networks in (((2.0, 1.0), (0, 1, 2)), ((1.0,), (0,)), ((1.0,), (0, 2)), ((), ())):
        with pytest.raises(UserError, match="are damaged"):
            Experts(bounds, networks)
    with pytest.raises(UserError, match="expert_index=2 is out of range; level 1 has the experts 0 to 1"):
        interval(1, 2)
