"""The samplers along the paths of stochastic interpolants, against SiT's program and closed forms."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.convert.conversion import convert
from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import Prediction, make_denoiser
from rdm_jax.diffusion.interpolants import PATHS
from rdm_jax.diffusion.parameterization import target, to_prediction
from rdm_jax.diffusion.samplers import SAMPLERS, interpolant, num_steps, sample, slice_steps, with_keys
from rdm_jax.diffusion.samplers.interpolant import METHODS
from rdm_jax.diffusion.samplers.interpolant_sde import DIFFUSIONS
from rdm_jax.diffusion.schedule import build_schedule
from rdm_jax.models.condition import Condition
from tests.helpers.golden_network import nhwc

DIFFUSION_NAMES = {"sbdm": "SBDM", "increasing_decreasing": "inccreasing-decreasing"}  # in SiT's program


def schedule_of(path):
    return build_schedule({"schedule": f"{path}_interpolant", "num_timesteps": 1000})


@pytest.fixture(scope="module")
def data(golden):
    return np.load(golden / "heads2/vit/sit_small.npz")


@pytest.fixture(scope="module")
def guided(golden, data, tmp_path_factory):
    """A function of a path to SiT's network of (x, t) as its program guides it: three of four channels, by 1.5.

    The network takes latents of variance 1 on the paths "gvp" and "vp" alike.
    """

    def of(path):
        folder = tmp_path_factory.mktemp("sit") / path
        convert(golden / "heads2/vit/sit_small.pt", interpolant="linear" if path == "linear" else "gvp").write(folder)
        bundle = Bundle.open(folder)
        network, params = bundle.denoiser, bundle.params["denoiser"]
        vectors = jax.nn.one_hot(data["ddpm_y"], network.vector_dim)

        @jax.jit
        def apply(x, t, _):
            both = jnp.concatenate([x[:2], x[:2]])
            out = network.apply({"params": params}, both, t, Condition(vector=vectors))
            assert out.shape == x.shape  # the second half of a network with a variance is thrown away
            given, null = out[:2], out[2:]
            mixed = (null + float(data["cfg_scale"]) * (given - null))[..., :3]
            return jnp.concatenate([jnp.concatenate([mixed, mixed]), out[..., 3:]], axis=-1)

        return apply

    return of


def run(sampler, schedule, denoiser, x, count, noises=None, monkeypatch=None):
    """Returns x in the path's coordinates after every entry of a plan."""
    steps, carry, states = sampler.plan(schedule, count), sampler.init(jnp.asarray(x)), []
    remaining = iter([] if noises is None else noises)
    for i in range(num_steps(steps)):
        info = jax.tree.map(lambda leaf: leaf[0], slice_steps(steps, i, i + 1))
        c = info.coefficients
        if monkeypatch:
            fresh = bool(c["noise_before"] or c["noise_after"])
            noise = jnp.asarray(next(remaining)) if fresh else jnp.zeros(x.shape)
            monkeypatch.setattr(interpolant, "fresh_noise", lambda *_, noise=noise: noise)
        carry, _ = sampler.step(carry, info, denoiser)
        states.append(np.asarray(carry.x * c["scale_next"]))
    assert next(remaining, None) is None
    return states


def equal(states, wanted):
    assert len(states) == len(wanted)
    for state, expected in zip(states, nhwc(wanted), strict=True):
        np.testing.assert_allclose(state, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("path", "method"), [("linear", "euler"), ("linear", "midpoint"), ("linear", "heun3"), ("gvp", "euler")]
)
def test_the_flow_of_a_velocity_is_the_original_programs(data, guided, path, method):
    sampler = SAMPLERS["interpolant_ode"](path=path, method=method)
    denoiser = make_denoiser(guided(path), None, f"{path}_velocity")
    states = run(sampler, schedule_of(path), denoiser, nhwc(data["ode_start"]), 4)
    stages = len(METHODS[method].nodes)
    equal(states[stages - 1 :: stages], data[f"ode_{path}_velocity_{method}"][1:])


@pytest.mark.parametrize(("path", "prediction"), [("linear", "noise"), ("gvp", "score"), ("vp", "noise")])
def test_noise_and_score_are_integrated_within_a_margin(data, guided, path, prediction):
    sampler = SAMPLERS["interpolant_ode"](path=path, margin=0.001)
    apply = guided(path)

    def denoiser(x, info):
        c = info.coefficients
        out = apply(x, jnp.full(len(x), info.t), None)
        eps = out if prediction == "noise" else -out * c["sigma"] * c["scale"]
        return to_prediction(eps, x, c["alpha"], c["sigma"], "eps")

    start = nhwc(data["ode_start"])
    grid = sampler.grid(schedule_of(path), 4)
    first = float(PATHS[path].scale(PATHS[path].time_of(grid.log_snr))[0])
    states = run(sampler, schedule_of(path), denoiser, start / first, 4)
    equal(states, data[f"ode_{path}_{prediction}_euler"][1:])


@pytest.mark.parametrize(("diffusion", "last"), [("sigma", "Mean"), ("decreasing", "Euler"), ("linear", "Tweedie")])
def test_the_stochastic_samplers_are_the_original_programs(data, guided, monkeypatch, diffusion, last):
    sampler = SAMPLERS["interpolant_sde"](diffusion=diffusion, last=last.lower())
    denoiser = make_denoiser(guided("linear"), None, "linear_velocity")
    noises, wanted = nhwc(data[f"sde_{diffusion}_{last}_noises"]), data[f"sde_{diffusion}_{last}_traj"]
    states = run(sampler, schedule_of("linear"), denoiser, nhwc(data["ode_start"]), 6, noises, monkeypatch)
    equal(states, wanted)


def test_heuns_stochastic_method_is_the_original_programs(data, guided, monkeypatch):
    sampler = SAMPLERS["interpolant_sde"](method="heun2", last="mean")
    denoiser = make_denoiser(guided("linear"), None, "linear_velocity")
    noises = nhwc(data["sde_heun_noises"])
    states = run(sampler, schedule_of("linear"), denoiser, nhwc(data["ode_start"]), 5, noises, monkeypatch)
    equal([*states[1:-1:2], states[-1]], data["sde_heun_traj"])


@pytest.mark.parametrize("path", PATHS)
def test_conversions_along_a_path_are_the_original_programs(data, path):
    kind = {"linear": "velocity", "gvp": "velocity", "vp": "noise"}[path]
    s, along = data["plan_t"].astype(np.float64), PATHS[path]
    x0, eps, v = (jnp.asarray(nhwc(data[f"plan_{name}"])) for name in ("x1", "x0", "v"))

    def given(name):
        return nhwc(data[f"{path}_{kind}_{name}"])

    def each(values):
        return np.asarray(values, np.float32)[:, None, None, None]

    alpha, sigma, scale = map(each, (*along.levels(s), along.scale(s)))
    rates = each(along.alpha_rate(s)), each(along.sigma_rate(s))
    np.testing.assert_allclose(scale * (alpha * x0 + sigma * eps), given("xt"), atol=1e-6)
    np.testing.assert_allclose(rates[0] * x0 + rates[1] * eps, given("ut"), rtol=1e-5, atol=1e-5)
    for name in DIFFUSIONS:
        expected = given(f"diffusion_{DIFFUSION_NAMES.get(name, name)}")[:, 0, 0, 0]
        np.testing.assert_allclose(DIFFUSIONS[name](along, s), expected, rtol=1e-4, atol=1e-6)
    if kind == "velocity":
        x_t = given("xt") / scale
        levels = jnp.asarray(alpha[:, 0, 0, 0]), jnp.asarray(sigma[:, 0, 0, 0])
        np.testing.assert_allclose(target(f"{path}_velocity", x0, eps, *levels), given("ut"), rtol=1e-5, atol=1e-5)
        found = to_prediction(jnp.asarray(v), jnp.asarray(x_t), *levels, f"{path}_velocity")
        np.testing.assert_allclose(found.eps, given("noise_from_velocity"), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(-found.eps / (sigma * scale), given("score_from_velocity"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_a_schedule_that_knows_its_own_levels_between_the_integers(path):
    schedule, along = schedule_of(path), PATHS[path]
    t = np.array([0, 3, 500, 999])
    for name, exact in zip(("signal", "noise"), schedule.at(t), strict=True):
        np.testing.assert_allclose(getattr(schedule, name)[t], exact, rtol=1e-9)
    s = np.linspace(0.01, 0.99, 9)
    np.testing.assert_allclose(along.time_of(along.log_snr(s)), s, atol=1e-12)
    np.testing.assert_allclose(schedule.time_of(along.log_snr(s)), 1000 * (1 - s) - 0.5, atol=1e-9)
    step = 1e-6
    for factor, rate in ((along.alpha, along.alpha_rate), (along.sigma, along.sigma_rate)):
        np.testing.assert_allclose((factor(s + step) - factor(s - step)) / (2 * step), rate(s), rtol=1e-6, atol=1e-8)
    ends = along.levels(np.array([1.0]))
    assert ends == (1.0, 0.0)


def test_eulers_method_on_the_linear_path_is_ddim():
    ddim, ours = SAMPLERS["ddim"](spacing="trailing"), SAMPLERS["interpolant_ode"](spacing="trailing")
    schedule = build_schedule({"schedule": "cosine", "num_timesteps": 1000})
    denoiser = make_denoiser(lambda x, t, _: jnp.sin(x) + t[:, None, None, None] * 1e-4, None, "v")
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 2))
    ends = [sample(each, each.plan(schedule, 7), x, denoiser) for each in (ddim, ours)]
    np.testing.assert_allclose(*ends, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "order"), [("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4), ("dopri5", 5)]
)
def test_a_method_has_its_order(method, order):
    # Normal data: the flow keeps each sample's standard score. A tableau is exact for polynomials of its order.
    rows, weights, nodes = METHODS[method].rows, METHODS[method].weights, METHODS[method].nodes
    assert len(rows) == len(nodes) - 1 == len(weights) - 1
    for row, node in zip(rows, nodes[1:], strict=True):
        assert sum(row) == pytest.approx(node)
    for power in range(order):
        moment = sum(weight * node**power for weight, node in zip(weights, nodes, strict=True))
        assert moment == pytest.approx(1 / (power + 1))
    # The growth of x' = x in one step agrees with that of the exponential up to the order.
    drifts: list[np.polynomial.Polynomial] = []
    h = np.polynomial.Polynomial([0.0, 1.0])
    for row in ((), *rows):
        drifts.append(1.0 + sum((w * h * d for w, d in zip(row, drifts, strict=True)), np.polynomial.Polynomial([0.0])))
    end = 1.0 + sum((w * h * d for w, d in zip(weights, drifts, strict=True)), np.polynomial.Polynomial([0.0]))
    np.testing.assert_allclose(end.coef[: order + 1], [1 / np.prod(np.arange(1, n + 1)) for n in range(order + 1)])


@pytest.mark.parametrize("diffusion", [name for name in DIFFUSIONS if name != "sbdm"])
@pytest.mark.slow
def test_any_diffusion_keeps_the_distribution(diffusion):
    # Normal data N(0.4, 0.5^2); the noise of the last step is not sampled, hence the tolerance.
    def gaussian(x, info):
        c = info.coefficients
        alpha, sigma = c["alpha"], c["sigma"]
        x0 = 0.4 + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (x - alpha * 0.4)
        return Prediction(x0=x0, eps=(x - alpha * x0) / sigma)

    sampler = SAMPLERS["interpolant_sde"](diffusion=diffusion, last_size=0.01)
    keys = jax.random.split(jax.random.key(0), 64)
    steps = with_keys(sampler.plan(schedule_of("linear"), 200), keys)
    x = jax.random.normal(jax.random.key(1), (64, 8, 8, 1))
    last = sample(sampler, steps, x, gaussian)
    assert float(last.mean()) == pytest.approx(0.4, abs=0.03) and float(last.std()) == pytest.approx(0.5, abs=0.03)


def test_what_a_sampler_cannot_do_is_one_line():
    ode, sde = SAMPLERS["interpolant_ode"], SAMPLERS["interpolant_sde"]
    for make, message in (
        (lambda: ode(path="vpp"), "unknown path 'vpp'"),
        (lambda: ode(method="heun"), "unknown method 'heun'"),
        (lambda: ode(margin=0.5), "margin 0.5 is out of range"),
        (lambda: sde(method="rk4"), "unknown method 'rk4'"),
        (lambda: sde(diffusion="none"), "unknown diffusion 'none'"),
        (lambda: sde(last="none"), "unknown last 'none'"),
        (lambda: sde(last_size=1.0), "last_size 1.0 is out of range"),
        (lambda: sde(diffusion="sbdm").plan(schedule_of("linear"), 4), "infinite at 0 of it; .*margin=0.001"),
        (lambda: ode(path="vp", method="heun2").plan(schedule_of("vp"), 4), "infinite at 1 of it"),
        (lambda: ode().plan(schedule_of("linear"), 1001), "1001 sampling steps do not fit"),
        (lambda: build_schedule({"schedule": "gvp_interpolant", "num_timesteps": 0}), "0 diffusion timesteps"),
    ):
        with pytest.raises(UserError, match=message):
            make()
    plan = dataclasses.replace(sde().plan(schedule_of("linear"), 1), keys=None)
    with pytest.raises(ValueError, match="a stochastic path samples noise"):
        sde().step(
            sde().init(jnp.zeros((1, 2, 2, 1))), jax.tree.map(lambda leaf: leaf[0], plan), lambda x, _: Prediction(x, x)
        )
    assert sde(diffusion="sbdm", margin=0.001).plan(schedule_of("linear"), 4).t.shape == (4,)
