"""A model of experts: with equal parameters it is the undivided model, each step evaluates one network, and it is
grown from runs on nodes of the tree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.cli.main import main
from rdm_jax.convert.writing import write_back
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.experts import Experts
from rdm_jax.diffusion.samplers import sample
from rdm_jax.factory import parameter_counts
from rdm_jax.generator import Generator
from rdm_jax.heads.diffusion.program import conditioned_denoiser, inputs_of
from rdm_jax.training import flops
from rdm_jax.training.experts import with_experts
from tests.helpers import tiny

SETTINGS = {"condition": "text", "steps": 4, "seed": 3}


def expert(begin, end, seed=None):
    """A model of a range of times; the parameters are those of the undivided model without a seed."""
    model = tiny.bundle()
    own = {} if seed is None else {"denoiser": tiny.random_params(tiny.CONFIG, "denoiser", seed)}
    config = {**model.config, "name": "expert", "diffusion": {**tiny.CONFIG["diffusion"], "range": [begin, end]}}
    return Bundle(config, {**model.params, **own}, model.tokenizer)


def latents(bundle):
    """The last x of a run, before it is decoded and rounded to pixels."""
    plan, rows = Generator.load(bundle).plan(["a red boat"], **SETTINGS), np.zeros(1, np.int64)
    inputs = jax.tree.map(jnp.asarray, inputs_of(plan, rows, rows))
    noise = jax.random.normal(jax.random.key(3), plan.run.start.latent.shape)

    @jax.jit
    def run(params, x):
        denoise = conditioned_denoiser(bundle, params, inputs, guided=True)
        return sample(plan.run.sampler, inputs.infos, x, denoise)

    return np.asarray(run(bundle.params, noise))


@pytest.fixture(scope="module")
def undivided():
    return tiny.bundle()


@pytest.mark.slow
def test_experts_of_equal_parameters_are_the_undivided_model(undivided):
    equal = with_experts(undivided, [expert(0, 250), expert(500, 1000)])
    assert Experts.of(equal.config["diffusion"]) == Experts((250.0, 500.0), (1, 0, 2))
    assert parameter_counts(equal.config)["denoiser"] == 3 * parameter_counts(undivided.config)["denoiser"]
    np.testing.assert_array_equal(latents(equal), latents(undivided))


@pytest.mark.slow
def test_every_step_reads_the_network_of_its_noise(undivided, tmp_path):
    other = expert(0, 1000, seed=9)
    alone = Bundle({**undivided.config}, other.params, undivided.tokenizer)
    whole, noisy = with_experts(undivided, [other]), with_experts(undivided, [expert(600, 1000, seed=9)])
    # An expert of all noise replaces the model, whose network is dropped.
    assert Experts.of(whole.config["diffusion"]) == Experts((), (0,))
    np.testing.assert_array_equal(latents(whole), latents(alone))
    assert (latents(noisy) != latents(alone)).any() and (latents(noisy) != latents(undivided)).any()
    noisy.save(tmp_path / "experts", "float32")
    np.testing.assert_array_equal(latents(Bundle.open(tmp_path / "experts")), latents(noisy))


def test_one_network_is_evaluated_whatever_their_number(undivided):
    def cost(bundle):
        plan, rows = Generator.load(bundle).plan(["a red boat"], **SETTINGS), np.zeros(1, np.int64)
        inputs = jax.tree.map(jnp.asarray, inputs_of(plan, rows, rows))
        info = jax.tree.map(lambda leaf: leaf[0], inputs.infos)
        denoise = conditioned_denoiser(bundle, bundle.params, inputs, guided=True)
        return flops.count(lambda x: denoise(x, info).x0, jnp.zeros(plan.run.start.latent.shape)).flops

    experts = with_experts(undivided, [expert(0, 250, 5), expert(500, 1000, 6)])
    assert cost(experts) == pytest.approx(cost(undivided), rel=1e-3)


def test_experts_are_joined_by_the_command(undivided, tmp_path, capsys):
    undivided.save(tmp_path / "model")
    expert(500, 1000, 7).save(tmp_path / "noisy")
    command = ["export", str(tmp_path / "model"), "--experts", str(tmp_path / "noisy"), "--out", str(tmp_path / "both")]
    assert main(command) == 0
    both = Bundle.open(tmp_path / "both")
    assert Experts.of(both.config["diffusion"]) == Experts((500.0,), (0, 1)) and both.name == "tiny"
    assert {leaf.shape[0] for leaf in trees.flatten(both.params["denoiser"]).values()} == {2}
    with pytest.raises(UserError, match="has experts for ranges of noise, and diffusers has none"):
        write_back(tmp_path / "both", "diffusers", tmp_path / "back")
    with pytest.raises(UserError, match="has experts already"):
        with_experts(both, [expert(0, 10)])


def test_what_is_no_expert_is_named(undivided):
    with pytest.raises(UserError, match="is no expert: it was trained on all noise; set expert_level"):
        with_experts(undivided, [undivided])
    other = expert(0, 10)
    config = {**other.config, "diffusion": {**other.config["diffusion"], "beta_end": 0.012}}
    with pytest.raises(UserError, match="expert 'expert' has another beta_end than 'tiny'"):
        with_experts(undivided, [Bundle(config, other.params)])
    wide = tiny.bundle(denoiser={**tiny.CONFIG["denoiser"], "model_channels": 16})
    config = {**wide.config, "diffusion": other.config["diffusion"]}
    with pytest.raises(UserError, match="has another network than 'tiny'"):
        with_experts(undivided, [Bundle(config, wide.params)])
