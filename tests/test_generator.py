"""The whole journey on a tiny random model: against a sampler written out in NumPy, and by its invariants."""

from __future__ import annotations

import dataclasses
import logging
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax import factory
from rdm_jax.core.errors import UserError
from rdm_jax.core.options import option
from rdm_jax.generator import Generator
from rdm_jax.heads import all_options, head_of
from rdm_jax.models import build_autoencoder
from rdm_jax.models.condition import Condition
from rdm_jax.request import resolve
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.retriever import Retriever
from tests.helpers import tiny

PROMPTS = ["a red boat", "a blue tree"]


@pytest.fixture(scope="module")
def generator():
    return Generator.load(tiny.bundle())


@pytest.fixture(scope="module")
def databases(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("databases")
    return [
        Database.open(tiny.database(folder, name, generator.bundle, seed=i)) for i, name in enumerate(["one", "two"])
    ]


@pytest.fixture
def sample(generator, databases):
    """Generates with the shape that most tests share, so that it is compiled once."""

    def generate(prompts=PROMPTS, **options):
        return generator.sample(prompts, **{"database": databases[0], "num_images": 2, "batch_size": 4, **options})

    return generate


def difference(a, b):
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def by_hand(bundle, tokens, noise, steps, scale):
    """DDIM with eta 0 under classifier-free guidance, v-prediction, and the decoder, from the papers' equations."""
    betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    times = np.arange(0, 1000, 1000 // steps) + 1
    previous = np.append(alphas[0], alphas[times[:-1]])
    denoise, decode = jax.jit(bundle.denoiser.apply), jax.jit(partial(bundle.autoencoder.apply, method="decode"))
    x = np.asarray(noise, np.float64)
    for t, a_prev in zip(times[::-1], previous[::-1], strict=True):
        a = alphas[t]
        v = [
            np.asarray(denoise({"params": bundle.params["denoiser"]}, jnp.float32(x), jnp.full(len(x), t), condition))
            for condition in (Condition(jnp.zeros_like(tokens)), Condition(tokens))
        ]
        v = v[0] + scale * (v[1] - v[0])
        x0 = np.sqrt(a) * x - np.sqrt(1 - a) * v
        eps = np.sqrt(1 - a) * x + np.sqrt(a) * v
        x = np.sqrt(a_prev) * x0 + np.sqrt(1 - a_prev) * eps
    z = jnp.float32(x / 0.5 + np.array([0.1, -0.2]))
    image = decode({"params": bundle.params["autoencoder"]}, z)
    return np.clip(np.round((np.asarray(image) + 1) * 127.5), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("scale", [pytest.param(1.0, marks=pytest.mark.slow), 2.0])
def test_an_image_equals_the_equations(generator, databases, scale):
    result = generator.sample(PROMPTS[:1], database=databases[0], guidance_scale=scale, seed=3)
    rows = databases[0].embeddings(result.neighbors.ids[0])
    tokens = jnp.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))[None]
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(3), 0), (8, 8, 2))[None]
    assert difference(result.images, by_hand(generator.bundle, tokens, noise, 4, scale)) <= 1
    assert result.images.std() > 20


def test_every_entry_belongs_to_its_image(sample):
    result = sample(num_images=3)
    assert result.images.shape == (6, 16, 16, 3)
    assert result.prompts == [PROMPTS[0]] * 3 + [PROMPTS[1]] * 3
    assert result.indices == list(range(6))
    assert result.neighbors.ids.shape == (6, 2)
    assert (result.neighbors.ids[:3] == result.neighbors.ids[0]).all()
    assert result.seed == 0


def test_at_equal_shapes_an_image_is_equal_bit_for_bit(sample):
    few, more = sample(PROMPTS[:1], num_images=3), sample(PROMPTS[:1], num_images=6)
    assert np.array_equal(few.images, more.images[:3])


@pytest.mark.parametrize(
    ("batch_size", "eta"),
    [(3, 1.0), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [(1, 0.0), (1, 1.0), (3, 0.0)])],
)
def test_at_any_batch_size_an_image_is_the_same(sample, batch_size, eta):
    assert difference(sample(eta=eta).images, sample(eta=eta, batch_size=batch_size).images) <= 2


def test_eta_samples_fresh_noise(sample):
    assert difference(sample(eta=0.0).images, sample(eta=1.0).images) > 10


def test_nothing_is_compiled_again_for_other_data(generator, sample, databases):
    sample()
    compiled = []

    def listener(event, *_, **__):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    count = generator.compilations
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        sample(["something else", "and more"], database=databases[1], seed=2**32 - 1, guidance_scale=7.5)
        assert not compiled
        sample(batch_size=2)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert generator.compilations == count + 1
    assert compiled


@pytest.mark.slow
def test_the_number_of_steps_shares_a_program(generator, sample):
    sample(steps=4)
    count = generator.compilations
    sample(steps=8)
    sample(steps=40)
    assert generator.compilations <= count + 2
    sample(steps=20)
    assert generator.compilations <= count + 2


def test_at_scale_zero_the_condition_does_not_matter(sample, databases):
    one, two = sample(guidance_scale=0.0), sample(guidance_scale=0.0, database=databases[1])
    assert np.array_equal(one.images, two.images)
    assert difference(sample().images, sample(database=databases[1]).images) > 0


def test_replan_swaps_the_database(generator, databases):
    plans = [generator.plan(PROMPTS, database=database, seed=4) for database in databases]
    swapped = generator.replan(plans[0], databases[1])
    assert np.array_equal(swapped.neighbors.ids, plans[1].neighbors.ids)
    assert np.array_equal(swapped.queries, plans[1].queries)


def test_an_image_of_the_database_finds_itself(generator, databases):
    plan = generator.plan(images=[tiny.Squares(12, 0)[5].image], database=databases[0])
    assert plan.neighbors.ids[0, 0] == 5
    assert plan.neighbors.scores[0, 0] > 0.999
    assert plan.prompts == ["image 1"]


def test_several_databases_are_searched_as_one(generator, databases):
    both = generator.plan(PROMPTS, database=databases, neighbors=24)
    assert {*both.neighbors.databases[0]} == {"one", "two"}
    kept = generator.plan(PROMPTS, database=Retriever(generator.encoder, databases), neighbors=24)
    assert np.array_equal(kept.neighbors.ids, both.neighbors.ids)


def test_a_default_number_of_neighbors_fits_a_small_database(generator, tmp_path, caplog):
    small = Database.open(tiny.database(tmp_path, "small", generator.bundle, count=1))
    with caplog.at_level(logging.INFO, "rdm_jax"):
        plan = generator.plan("a red boat", database=small)
    assert plan.request.neighbors == 1 and plan.neighbors.ids.shape == (1, 1)
    assert "1 neighbors and not 2, the default: small has no more of them" in caplog.text
    with pytest.raises(UserError, match="k 2 is out of range; small has 1 rows"):
        generator.plan("a red boat", database=small, neighbors=2)
    other = Database.open(tiny.database(tmp_path, "other", generator.bundle, count=4))
    whole = generator.plan("a red boat", database=other)
    assert generator.replan(whole, small, default=True).request.neighbors == 1
    with pytest.raises(UserError, match="k 2 is out of range"):
        generator.replan(whole, small)


def test_text_alone_needs_no_database(generator):
    plan = generator.plan(PROMPTS, condition="text")
    assert plan.neighbors is None
    assert plan.request.neighbors == 0


@pytest.mark.parametrize(
    ("given", "spacing"),
    [
        ({}, "trailing"),
        ({"steps": 7}, "trailing"),
        ({"sampler": "ddim"}, "trailing"),
        ({"sampler": "heun"}, ""),
        ({"sampler": "ddim(spacing='leading')"}, ""),
        ({"sampler": "heun", "spacing": "log_snr"}, "log_snr"),
    ],
)
def test_the_spacing_of_a_model_is_that_of_its_own_sampler(given, spacing) -> None:
    config = {**tiny.CONFIG, "sampling": {**tiny.CONFIG["sampling"], "spacing": "trailing"}}
    _, options = resolve(config, head_of(config), given, queries=1)
    assert options.spacing == spacing


@pytest.mark.parametrize(("images", "size", "expected"), [(1, 64, 1), (8, 64, 8), (9, 64, 5), (17, 64, 6), (4, 768, 1)])
def test_batches_are_filled_evenly(images, size, expected):
    given = {"height": size, "width": size, "num_images": images}
    request, _ = resolve(tiny.CONFIG, head_of(tiny.CONFIG), given, queries=1)
    assert request.batch_size == expected


@pytest.mark.slow
def test_decoding_in_slices_changes_nothing(generator, monkeypatch):
    bundle = generator.bundle
    z = jax.random.normal(jax.random.key(0), (3, 8, 8, 2))

    def decoded():
        decode = jax.jit(factory.decoder_from(bundle.autoencoder, bundle.config["latents"]))
        return decode(bundle.params["autoencoder"], z)

    whole = decoded()
    monkeypatch.setattr(factory, "DECODED_PIXELS", 2 * 16 * 16)
    assert np.allclose(decoded(), whole, atol=1e-4)


def test_progress_counts_all_steps(generator, sample):
    seen = []
    sample(num_images=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 8), (4, 8), (4, 8), (8, 8)]


def test_a_prompt_that_is_too_long_names_what_is_cut(generator, databases, caplog):
    with caplog.at_level(logging.WARNING, "rdm_jax"):
        generator.plan(["a red boat", "a blue tree " * 5 + "unseen"], database=databases[0])
    (record,) = caplog.records
    assert record.getMessage().endswith("unseen'")


def test_images_that_are_not_finite_are_refused(generator, databases):
    params = {
        **generator.bundle.params,
        "denoiser": jax.tree.map(lambda x: x * jnp.nan, generator.bundle.params["denoiser"]),
    }
    with pytest.raises(UserError, match="image 0 is not finite"):
        generator.with_params(params).sample(PROMPTS, database=databases[0], num_images=2, batch_size=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": []}, "nothing to generate"),
        ({"prompts": ["a boat", "  "]}, "prompt 2 is empty"),
        ({"database": None}, "neighbors need a database"),
        ({"database": "no-such"}, "unknown database 'no-such'"),
        ({"condition": "neighbor"}, "did you mean 'neighbors'"),
        ({"sampler": "dim"}, "did you mean 'ddim'"),
        ({"neighbors": 0}, "neighbors 0"),
        ({"neighbors": 13}, "12 rows"),
        ({"num_images": 0}, "num images 0"),
        ({"batch_size": 0}, "batch size 0"),
        ({"steps": 0}, "steps 0"),
        ({"steps": 1001}, "1001 sampling steps"),
        ({"eta": 1.5}, "eta 1.5"),
        ({"eta": float("nan")}, "eta=nan is not a number"),
        ({"guidance_scale": float("nan")}, "guidance scale nan"),
        ({"guidance_scale": float("inf")}, "guidance scale inf"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**32}, "seed 4294967296"),
        ({"height": 17}, "height 17 is not a multiple of 2.* use 16 or 18"),
        ({"width": 1}, "width 1 is not a multiple of 2.* use 2"),
        ({"steps": 2.5}, "steps 2.5 is not a whole number"),
        ({"guidance_scale": "high"}, "guidance scale 'high' is not a number"),
        ({"guidance_interval": (0.9, 0.1)}, "guidance interval from 0.9 to 0.1 is empty"),
        ({"stepz": 3}, "unknown option 'stepz'; did you mean 'steps'"),
    ],
)
def test_bad_input_gives_one_line(sample, options, message):
    with pytest.raises(UserError, match=message) as caught:
        sample(**options)
    assert "\n" not in str(caught.value)


def test_an_option_of_another_head_is_refused_by_name(sample, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Options:
        warmth: float = option(1.0, "of the tokens")

    monkeypatch.setattr("rdm_jax.planning.all_options", lambda: {**all_options(), "toy": Options})
    with pytest.raises(UserError, match="option warmth belongs to toy models, and this model's head is diffusion"):
        sample(warmth=2.0)


def test_a_database_of_another_encoder_is_refused(generator, databases):
    params = tiny.randomize(generator.bundle.params, seed=1)
    other = Generator.load(dataclasses.replace(generator.bundle, params=params))
    with pytest.raises(UserError, match="made by encoder"):
        other.sample(PROMPTS, database=databases[0])


def test_a_model_without_a_part_is_refused(generator):
    bundle = generator.bundle
    params = {part: tree for part, tree in bundle.params.items() if part != "denoiser"}
    config = {key: value for key, value in bundle.config.items() if key != "denoiser"}
    with pytest.raises(UserError, match="has no denoiser"):
        Generator.load(dataclasses.replace(bundle, params=params, config=config))
    with pytest.raises(UserError, match="describes denoiser, and there are no parameters for it"):
        dataclasses.replace(bundle, params=params)


def test_a_model_that_is_open_in_another_type_is_refused(generator):
    with pytest.raises(UserError, match="open in float32, and bfloat16 is requested"):
        Generator.load(generator.bundle, "bfloat16")


def test_rows_are_queries_beside_prompts_and_images(generator, databases):
    plan = generator.plan("a red boat", database=databases[0], rows=[3, 5], condition="neighbors")
    assert plan.prompts == ["a red boat", "row 3", "row 5"]
    assert plan.neighbors is not None
    np.testing.assert_array_equal(plan.neighbors.ids[1:, 0], [3, 5])
    with pytest.raises(UserError, match="condition 'text' has none"):
        generator.plan("a red boat", rows=[3], condition="text")


@pytest.mark.slow
def test_a_vq_first_stage_quantizes_by_default():
    settings = {"ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (), "resolution": 8}
    codes = {"z_channels": 3, "embed_dim": 3, "num_codes": 4}
    module = build_autoencoder({"kind": "vq", "num_groups": 4, **settings, **codes})
    h = jax.random.normal(jax.random.key(0), (1, 4, 4, 3))
    params = jax.jit(module.init)(jax.random.key(1), jnp.zeros((1, 8, 8, 3)))["params"]
    decoded = {
        quantize: jax.jit(factory.decoder_from(module, {"scale": 2.0, "quantize": quantize}))(params, 2.0 * h)
        for quantize in (True, False)
    }
    for quantize, image in decoded.items():
        expected = jax.jit(partial(module.apply, method="decode", quantize=quantize))({"params": params}, h)
        np.testing.assert_allclose(image, expected, atol=1e-6)
    assert np.abs(decoded[True] - decoded[False]).max() > 1e-4


def test_an_unknown_null_condition_is_refused(generator, databases):
    config = {**generator.bundle.config, "conditioning": {**generator.bundle.config["conditioning"], "null": "lerned"}}
    changed = Generator.load(dataclasses.replace(generator.bundle, config=config))
    with pytest.raises(UserError, match="unknown null condition 'lerned'; did you mean 'learned'"):
        changed.plan("a red boat", database=databases[0])
