"""Conditions by name, on a tiny random model: each against what it promises, none recompiles a run."""

from __future__ import annotations

import dataclasses
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation, Slerp

from rdm_jax.conditioning.alignment import align
from rdm_jax.conditioning.base import Context, ScheduledCondition, resample
from rdm_jax.conditioning.composed import spread_evenly
from rdm_jax.conditioning.embeddings import slerp
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.models.attention import Attention
from rdm_jax.models.condition import Condition
from rdm_jax.models.unet import attention_bias
from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.encoder import ClipEncoder
from tests.helpers import tiny

PROMPT = "a red boat"


class Scattered(ClipEncoder):
    """Vectors that have nothing to do with each other: those of random weights all point one way."""

    def encode_texts(self, texts):
        return np.stack([self._vector(text.encode()) for text in texts])

    def encode_images(self, images):
        return np.stack([self._vector(np.ascontiguousarray(image).tobytes()) for image in images])

    def encode_texts_in_chunks(self, texts, size):
        yield self.encode_texts(texts)

    def _vector(self, data):
        return np.random.default_rng(zlib.crc32(data)).standard_normal(tiny.WIDTH).astype(np.float32)


@pytest.fixture(scope="module")
def generator():
    """A model that looks at its context."""
    bundle = tiny.bundle()

    def louder(path, leaf):
        name = jax.tree_util.keystr(path)
        return leaf * 4 if "attn2" in name or "proj_out" in name else leaf

    unet = jax.tree_util.tree_map_with_path(louder, bundle.params["denoiser"])
    opened = Generator.load(dataclasses.replace(bundle, params={**bundle.params, "denoiser": unet}))
    model = dataclasses.replace(opened.model, encoder=Scattered(opened.bundle))
    return dataclasses.replace(opened, model=model)


@pytest.fixture(scope="module")
def databases(tmp_path_factory, generator):
    folder = tmp_path_factory.mktemp("databases")
    for seed, name in enumerate(("one", "two")):
        build_database(BuildJob.of(tiny.Squares(12, seed), generator.encoder, BuildOptions(name=name)), folder / name)
    return [folder / "one", folder / "two"]


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    for name, left, right in (("left", 255, 0), ("all", 255, 255), ("none", 0, 0), ("half", 128, 128)):
        pixels = np.full((16, 16, 3), right, np.uint8)
        pixels[:, :8] = left
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return {path.stem: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def sample(generator, databases):
    def generate(*conditions, prompt=PROMPT, **options):
        settings = {"condition": "text+neighbors", "steps": 4, "batch_size": 2, "num_images": 2, **options}
        return generator.sample(prompt, database=databases[0], conditions=conditions, **settings).images

    return generate


def near(a, b, levels=1):
    return np.abs(a.astype(int) - b.astype(int)).max() <= levels


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("also(prompt='a blue tree', scale=2)", "also(prompt='cat', scale=-1.5)"),
        ("also(database='{two}', scale=2)",) * 2,
        pytest.param("negative(prompt='a blue tree')", "negative(database='{two}')", marks=pytest.mark.slow),
        pytest.param(
            "interleave(query_scale=4, neighbor_scale=1, query_share=0.5)",
            "interleave(query_share=0.25)",
            marks=pytest.mark.slow,
        ),
        ("weights(of_query=3)", "weights(of_query=0.5, of_neighbors=[0.0, 2.5])"),
        ("region(mask='{left}', prompt='a blue tree')", "region(mask='{half}', database='{two}', weight=2)"),
        ("interpolate(prompt='a blue tree', share=0.5)", "interpolate(database='{two}', share=0.8)"),
        ("add(prompt='a blue tree', weight=0.7)", "add(prompt='cat', weight=-1)"),
        ("switch(prompt='a blue tree', after=0.5)", "switch(database='{two}', after=0.25)"),
    ],
)
def test_a_condition_changes_the_images_and_other_options_compile_nothing(
    generator, sample, databases, masks, first, second
):
    first, second = (text.format(two=databases[1], **masks) for text in (first, second))
    plain, changed = sample(), sample(first)
    assert not near(plain, changed)
    before = generator.compilations
    again = sample(second)
    assert generator.compilations == before
    assert first == second or (again != changed).any()


@pytest.mark.slow
def test_what_changes_nothing_changes_nothing(sample, databases, masks):
    plain = sample()
    for text in (
        "also(prompt='a blue tree', scale=0)",
        "weights(of_query=2, of_neighbors=2)",
        "interpolate(prompt='a blue tree', share=0)",
        "add(prompt='a blue tree', weight=0)",
        "switch(prompt='a blue tree', after=1)",
    ):
        assert near(sample(text), plain), text
    assert near(sample(guidance_rescale=1e-6), plain)


@pytest.mark.slow
def test_the_other_condition_alone_is_the_other_condition(sample, databases, masks):
    other = sample(prompt="a blue tree")
    for text in (
        f"region(mask='{masks['all']}', prompt='a blue tree')",
        "interpolate(prompt='a blue tree', share=1)",
        "switch(prompt='a blue tree', after=0)",
    ):
        assert near(sample(text), other), text
    # Twice the same condition with half the scale each is once the whole.
    whole = sample(guidance_scale=3.0)
    assert near(sample(f"also(prompt='{PROMPT}', scale=1.5)", guidance_scale=1.5), whole)
    # Away from itself there is nothing to lead to.
    assert near(sample(f"negative(prompt='{PROMPT}')", guidance_scale=5.0), sample(guidance_scale=1.0))


@pytest.mark.slow
def test_a_token_of_weight_two_is_a_token_twice_and_of_weight_zero_is_none(generator):
    apply, params = jax.jit(generator.bundle.denoiser.apply), {"params": generator.bundle.params["denoiser"]}
    x, t = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 2)), jnp.float32), jnp.array([3.0, 500.0])
    tokens = jnp.asarray(np.random.default_rng(1).standard_normal((2, 3, tiny.WIDTH)), jnp.float32)

    def weighted(tokens, weights=None):
        return apply(params, x, t, Condition(tokens, weights))

    twice = weighted(tokens[:, [0, 0, 2]])
    np.testing.assert_allclose(weighted(tokens, jnp.array([[2.0, 0.0, 1.0]] * 2)), twice, atol=1e-5)
    spread = jnp.broadcast_to(jnp.array([2.0, 0.0, 1.0]), (2, 8, 8, 3))
    np.testing.assert_allclose(weighted(tokens, spread), twice, atol=1e-5)
    ones = weighted(tokens, jnp.ones((2, 3)))
    np.testing.assert_allclose(ones, weighted(tokens), atol=1e-5)


def test_a_region_acts_where_it_is_painted():
    # One attention layer alone: through the whole network each pixel sees all others.
    module = Attention(2, 4)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 16, 8)), jnp.float32)
    tokens = jnp.asarray(np.random.default_rng(1).standard_normal((1, 5, 6)), jnp.float32)
    params, apply = jax.jit(module.init)(jax.random.key(0), x, tokens), jax.jit(module.apply)
    mask = np.zeros((1, 8, 8, 1), np.float32)
    mask[:, :, 4:] = 1.0
    weights = np.concatenate([np.repeat(1.0 - mask, 2, -1), np.repeat(mask, 3, -1)], axis=-1)
    out = apply(params, x, tokens, attention_bias(jnp.asarray(weights), 2)).reshape(4, 4, 8)
    first, second = (apply(params, x, part).reshape(4, 4, 8) for part in (tokens[:, :2], tokens[:, 2:]))
    np.testing.assert_allclose(out[:, :2], first[:, :2], atol=1e-5)
    np.testing.assert_allclose(out[:, 2:], second[:, 2:], atol=1e-5)


def test_guidance_within_an_interval(sample):
    whole, none = sample(guidance_scale=4.0), sample(guidance_scale=1.0)
    assert near(sample(guidance_scale=4.0, guidance_interval=(0.0, 1.0)), whole, 0)
    # Four steps from 751 to 1: nothing is above 0.9.
    assert near(sample(guidance_scale=4.0, guidance_interval=(0.9, 1.0)), none)
    half = sample(guidance_scale=4.0, guidance_interval=(0.0, 0.6))
    assert not near(half, whole) and not near(half, none)


def test_slerp_is_scipys():
    ends = Rotation.from_rotvec([[0, 0, 0.2], [0, 0, 1.4]])
    expected = Slerp([0, 1], ends)([0.0, 0.3, 1.0]).apply([2.0, 0.0, 0.0])
    one, other = ends.apply([2.0, 0.0, 0.0])
    found = [slerp(one[None], other[None], part)[0] for part in (0.0, 0.3, 1.0)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    same = np.array([[3.0, 4.0]])
    np.testing.assert_allclose(slerp(same, same, 0.4), same, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(slerp(same, np.array([[0.0, 1.0]]), 0.5)), 3.0, atol=1e-6)


def test_kinds_of_steps_are_spread_evenly():
    assert spread_evenly(8, 0.25).tolist() == [False, False, False, True] * 2
    assert spread_evenly(5, 0.0).sum() == 0 and spread_evenly(5, 1.0).all()
    assert spread_evenly(10, 0.3).sum() == 3


def test_weights_of_another_number_of_steps_are_interpolated():
    np.testing.assert_allclose(resample(5, [1.0, 0.0, 2.0]), [1.0, 0.5, 0.0, 1.0, 2.0])
    np.testing.assert_allclose(resample(3, [0.5]), [0.5] * 3)


def test_conditions_of_other_sizes_are_filled_up_with_what_counts_for_nothing():
    tokens = np.ones((2, 3, 4), np.float32)
    also = ScheduledCondition(tokens[:, :2], target=tokens[:, :2])
    context = align(Context(ScheduledCondition(tokens), ScheduledCondition(tokens[:, :1]), (also,)))
    assert context.null.tokens.shape == context.given.tokens.shape == context.also[0].target.shape == (2, 3, 4)
    assert context.null.weights.tolist() == [[1, 0, 0]] * 2 and context.given.weights.tolist() == [[1, 1, 1]] * 2
    plain = Context(ScheduledCondition(tokens), ScheduledCondition(tokens))
    assert align(plain).given.weights is None and align(plain).null.target is None


def test_learned_weights_mix_two_conditions(sample, tmp_path):
    for name, values in (("own", [1.0] * 4), ("other", [0.0] * 4), ("half", [1.0, 1.0, 0.0, 0.0])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"weights": values}))
    mixed = {
        name: sample(f"mix(prompt='a blue tree', weights='{tmp_path / name}.json')")
        for name in ("own", "other", "half")
    }
    assert near(mixed["own"], sample())
    assert near(mixed["other"], sample(prompt="a blue tree"))
    assert near(mixed["half"], sample("switch(prompt='a blue tree', after=0.5)"), 0)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("als(prompt='a')", r"unknown condition 'als'; did you mean 'also'"),
        ("region(prompt='a')", r"mask is missing; give a mask"),
        ("region(mask='nowhere.png')", r"cannot read nowhere.png"),
        ("region(mask='{none}', prompt='a')", r"none.png paints nothing"),
        ("weights(of_neighbors=[1.0, 2.0, 3.0])", r"weights of 3 neighbors, and there are 2"),
        ("weights(of_query=-1)", r"out of range"),
        ("weights(of_query=0, of_neighbors=0)", r"not 0 for all"),
        ("switch(after=2)", r"after=2.0 is out of range"),
        ("mix(prompt='a', weights='nowhere.json')", r"cannot read weights from nowhere.json"),
        ("negative(database='nowhere')", r"nowhere"),
        ("negative()", r"negative has nothing to guide away from"),
        ("add(weight=1)", r"add has nothing to add"),
    ],
)
def test_invalid_conditions_are_refused(sample, masks, condition, message):
    with pytest.raises(UserError, match=message):
        sample(condition.format(**masks))


def test_a_mask_of_another_size_is_refused(sample, tmp_path):
    Image.new("L", (20, 16)).save(tmp_path / "wide.png")
    with pytest.raises(UserError, match=r"mask .*wide.png is 20x16 pixels and its image 16x16"):
        sample(f"region(mask='{tmp_path / 'wide.png'}', prompt='a')")


def test_interleaving_needs_both_conditions(generator):
    with pytest.raises(UserError, match="interleave needs a query and neighbors"):
        generator.plan(PROMPT, condition="text", conditions=["interleave()"])


@pytest.mark.slow
def test_every_query_has_the_condition_of_its_own(generator, databases):
    options = {"database": databases[0], "condition": "text+neighbors", "steps": 2, "batch_size": 2}
    both = generator.sample([PROMPT, "cat"], conditions=[f"also(database='{databases[1]}')"], **options)
    alone = generator.sample(["cat"], conditions=[f"also(database='{databases[1]}')"], **options)
    plan = generator.plan([PROMPT, "cat"], conditions=[f"also(database='{databases[1]}')"], **options)
    assert len(plan.context.also[0].tokens) == 2
    again = dataclasses.replace(plan, indices=[0], rows=[1])
    assert near(next(generator.generate(again)).images, alone.images) and len(both.images) == 2
