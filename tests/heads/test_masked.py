"""Masked codes: the published sampler's trajectories, the invariants of parallel decoding, edits, and errors."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from rdm_jax.bundle import Bundle
from rdm_jax.cli.main import main
from rdm_jax.convert import amused
from rdm_jax.convert.mapping import assemble
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.guidance import SDG, Inpaint, Outpaint
from rdm_jax.heads.masked import decoding
from rdm_jax.heads.masked.decoding import UNKNOWN, Carry, check_codes, codes_left, plan_steps
from rdm_jax.heads.masked.program import network_from
from rdm_jax.models import build_transformer
from rdm_jax.models.condition import Condition
from tests.helpers import masked, tiny
from tests.helpers.masked import CODES, SIDE


@pytest.fixture(scope="module")
def uvit(golden):
    folder = golden / "heads2/muse/uvit_small"
    module = build_transformer(amused.uvit_config(json.loads((folder / "config.json").read_text())))
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    return module, assemble(amused.uvit_plan(state, module, frozenset()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, schedule, warmth", [("cosine", "cosine", 2.0), ("linear", "linear", None), ("inpainting", "cosine", 2.0)]
)
def test_the_trajectory_is_that_of_the_published_sampler(uvit, golden, name, schedule, warmth):
    module, params = uvit
    data = np.load(golden / f"heads2/muse/sampler_{name}.npz")
    tokens = np.where(data["tokens"] == module.mask_token, UNKNOWN, data["tokens"]).reshape(len(data["tokens"]), 2, 64)
    count = len(data["temperatures"])
    planned = plan_steps(schedule, count, 64, masked=float(data["starting_mask_ratio"]), choice_temperature=2.0)
    if warmth:
        np.testing.assert_allclose(planned.choice_temperature, data["temperatures"], atol=1e-6)
    scale = np.full(count, data["guidance_scale"], np.float32)
    steps = dataclasses.replace(planned, choice_temperature=data["temperatures"], guidance=scale)

    def condition(prefix=""):
        vector = np.concatenate([data[f"{prefix}pooled_text_emb"], data["micro_conds"]], axis=1)
        return Condition(jnp.asarray(data[f"{prefix}encoder_hidden_states"]), vector=jnp.asarray(vector))

    @jax.jit
    def one(codes, step, noise, choice):
        apply = network_from(module, params, (8, 8))
        logits = decoding.guided_logits(apply, codes, step.guidance, condition(), condition("negative_"))
        return logits, decoding.step_with(Carry(codes, codes), logits, noise, choice, step)

    carry = Carry(jnp.asarray(tokens[0], jnp.int32), None)
    for number in range(count):
        step = jax.tree.map(lambda leaf, at=number: jnp.asarray(leaf[at]), steps)
        choice = data["gumbel"][number] if number < count - 1 else np.zeros((2, 64), np.float32)
        logits, carry = one(carry.codes, step, -jnp.log(data["exponential"][number]), jnp.asarray(choice))
        theirs = np.moveaxis(data["guided_logits"][number].reshape(2, -1, 64), 1, 2)
        np.testing.assert_allclose(logits, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
        np.testing.assert_array_equal(carry.predicted, data["predicted"][number].reshape(2, -1))
        np.testing.assert_array_equal(carry.codes, tokens[number + 1])


def test_the_schedule_is_that_of_the_published_program(golden):
    data = np.load(golden / "heads2/muse/sampler_cosine.npz")
    np.testing.assert_array_equal(codes_left("cosine", 6, 64), data["masked_left"][:, 0])
    np.testing.assert_array_equal(codes_left("linear", 4, 64), [48, 32, 16, 0])
    np.testing.assert_array_equal(codes_left("cosine", 1, 64), [0])
    assert (codes_left("cosine", 60, 64)[:-1] >= 1).all()


def test_guidance_grows_to_its_scale():
    np.testing.assert_allclose(plan_steps("cosine", 4, 64, guidance_scale=5.0, growing=True).guidance, [2, 3, 4, 5])
    np.testing.assert_array_equal(plan_steps("cosine", 3, 64, guidance_scale=5.0).guidance, [5, 5, 5])


def _decoded(codes, steps, logits, key=0):
    """Decodes with logits that do not depend on the codes, and returns the states after each step."""

    def apply(codes, condition):
        return jnp.broadcast_to(logits, (*codes.shape, logits.shape[-1]))

    keys = jax.random.split(jax.random.key(key), len(codes))
    carry, states = Carry(jnp.asarray(codes), jnp.asarray(codes)), []
    run = jax.jit(lambda carry, step: decoding.advance(apply, carry, keys, step, 1.0, Condition()))
    for number in range(len(steps.number)):
        carry = run(carry, jax.tree.map(jnp.asarray, steps.chunk(number, 1)))
        states.append(np.asarray(carry.codes))
    return states


def test_known_codes_never_change_and_as_many_are_masked_as_planned():
    logits = jax.random.normal(jax.random.key(1), (64, 5))
    known = np.full((3, 64), UNKNOWN, np.int32)
    known[:, ::3] = 4
    masked = float((known == UNKNOWN).mean())
    steps = plan_steps("cosine", 8, 64, masked=masked)
    states = _decoded(known, steps, logits)
    kept = known != UNKNOWN
    for state, left in zip(states, steps.left, strict=True):
        np.testing.assert_array_equal(state[kept], known[kept])
        np.testing.assert_array_equal((state == UNKNOWN).sum(axis=1), left)
    for before, after in itertools.pairwise(states):
        np.testing.assert_array_equal(after[before != UNKNOWN], before[before != UNKNOWN])
    assert (states[0] != states[0][:1]).any()  # each image has its own random numbers


def test_one_step_decides_all_codes_by_their_probabilities():
    logits = jnp.log(jnp.asarray([0.5, 0.3, 0.2]))
    (codes,) = _decoded(np.full((64, 64), UNKNOWN, np.int32), plan_steps("cosine", 1, 64), logits)
    shares = np.bincount(codes.reshape(-1), minlength=3) / codes.size
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=4 * math.sqrt(0.25 / codes.size))


def test_without_noise_the_most_certain_codes_are_kept():
    certain = jnp.where(jnp.arange(64)[:, None] < 20, jnp.asarray([9.0, 0.0]), jnp.asarray([0.1, 0.0]))
    steps = dataclasses.replace(plan_steps("linear", 2, 64, choice_temperature=0.0), left=np.asarray([44, 0], np.int32))
    state = _decoded(np.full((2, 64), UNKNOWN, np.int32), steps, certain)[0]
    rare = state[:, :20] != 0  # a code of probability exp(-9) that was sampled is uncertain
    assert rare.sum() == 0 and (state[:, 20:] == UNKNOWN).all()


def test_the_start_masks_the_given_number_of_codes():
    codes = jnp.arange(16)[None].repeat(2, axis=0)
    uniform = jax.random.uniform(jax.random.key(0), (2, 16))
    carry = decoding.start(codes, 5, uniform)
    np.testing.assert_array_equal((carry.codes == UNKNOWN).sum(axis=1), [5, 5])
    assert (carry.codes[0] != carry.codes[1]).any()
    np.testing.assert_array_equal(decoding.start(codes, 0, uniform).codes, codes)


def test_codes_out_of_range_are_refused():
    check_codes(np.asarray([UNKNOWN, 0, 11]), 12)
    with pytest.raises(UserError, match="code 12 is out of range; the first stage has codes 0 to 11"):
        check_codes(np.asarray([3, 12]), 12)


@pytest.fixture(scope="module")
def bundle():
    """A tiny model of masked codes with random parameters."""
    return masked.bundle()


@pytest.fixture(scope="module")
def generator(bundle):
    return Generator.load(bundle)


@pytest.fixture
def files(tmp_path):
    """An image, and a mask whose right half is white."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return pixels, str(tmp_path / "image.png"), str(tmp_path / "mask.png")


@pytest.mark.slow
def test_an_image_does_not_depend_on_its_batch_and_guidance_1_is_none(generator):
    both = generator.sample("a red boat", num_images=3, batch_size=3, seed=5).images
    alone = generator.sample("a red boat", num_images=3, batch_size=1, seed=5).images
    assert both.shape == (3, 16, 16, 3) and np.abs(both.astype(int) - alone.astype(int)).max() <= 2
    assert (both[0] != both[1]).any()
    compiled = generator.compilations
    again = generator.sample("a blue tree", num_images=3, batch_size=3, seed=5, temperature=0.5, choice_temperature=0.0)
    assert generator.compilations == compiled and (again.images != both).any()
    plain = generator.sample("a red boat", seed=5, guidance_scale=1.0).images
    barely = generator.sample("a red boat", seed=5, guidance_scale=1.0 + 1e-6).images
    assert np.abs(plain.astype(int) - barely.astype(int)).max() <= 2


def test_negative_prompts_and_the_guidance_schedule_change_the_image(generator):
    from rdm_jax.conditioning import Negative

    options = {"seed": 1, "guidance_scale": 6.0, "num_images": 2}
    plain = generator.sample("a red boat", **options).images
    away = generator.sample("a red boat", conditions=[Negative(prompt="a blue tree")], **options).images
    growing = generator.sample("a red boat", guidance_schedule="growing", **options).images
    assert (plain != away).any() and (plain != growing).any()


def test_previews_show_all_codes_after_every_chunk(generator):
    shown = []
    plan = generator.plan("a red boat", seed=2, steps=6)
    (result,) = generator.generate(plan, preview=lambda _, done, images: shown.append((done, images)))
    assert [done for done, _ in shown] == [3, 6]
    np.testing.assert_array_equal(shown[-1][1], result.images)


@pytest.mark.slow
def test_inpainting_keeps_the_known_pixels_and_their_codes(generator, bundle, files):
    pixels, image, mask = files
    plan = generator.plan("a red boat", guides=[Inpaint(image=image, mask=mask)], seed=3, num_images=2)
    assert (plan.run.codes.reshape(SIDE, SIDE)[:, 4:] == UNKNOWN).all()
    known = plan.run.codes.reshape(SIDE, SIDE)[:, :4]
    codes = bundle.autoencoder.apply(
        {"params": bundle.params["autoencoder"]}, jnp.asarray(pixels[None] / 127.5 - 1.0, jnp.float32), method="codes"
    )
    np.testing.assert_array_equal(known, codes[0, :, :4])
    (result,) = generator.generate(plan)
    np.testing.assert_array_equal(result.images[:, :, :8], np.broadcast_to(pixels[:, :8], (2, 16, 8, 3)))
    assert (result.images[0, :, 8:] != result.images[1, :, 8:]).any()


def test_outpainting_and_starts_from_images(generator, files, tmp_path):
    pixels, image, _ = files
    Image.fromarray(pixels[:, :8]).save(tmp_path / "half.png")
    guide = Outpaint(image=str(tmp_path / "half.png"), right=8)
    result = generator.sample("a red boat", guides=[guide], seed=3)
    np.testing.assert_array_equal(result.images[0, :, :8], pixels[:, :8])
    plan = generator.plan("a red boat", init=image, strength=0.5, steps=8)
    assert list(plan.run.steps.number) == [5, 6, 7, 8] and plan.run.hidden == codes_left("cosine", 8, SIDE**2)[3]
    assert (plan.run.codes >= 0).all()
    assert next(iter(generator.generate(plan))).images.shape == (1, 16, 16, 3)
    whole = generator.plan("a red boat", init=image)
    assert (whole.run.hidden, whole.run.total) == (SIDE**2, 4)


def test_what_does_not_fit_is_refused_in_one_line(generator, bundle, files, tmp_path):
    _, image, mask = files

    def refused(match, **options):
        with pytest.raises(UserError, match=match) as error:
            generator.plan("a red boat", **options)
        assert "\n" not in str(error.value)

    refused("steps 65 is too large: every step decides a code or more, and an image has 64; use 1 to 64", steps=65)
    refused("steps 0 is too small", steps=0)
    refused("unknown mask schedule 'square'", mask_schedule="square")
    refused("unknown guidance schedule 'wild'", guidance_schedule="wild")
    refused("temperature=0.0 is out of range", temperature=0.0)
    refused("choice_temperature=-1.0 is out of range; give 0 or more", choice_temperature=-1.0)
    refused("guidance scale nan is out of range", guidance_scale=float("nan"))
    refused("unknown guide 'sdg'", guides=["sdg(text='neon')"])
    refused("guide .* is neither a text nor an object of these classes: ", guides=[SDG(text="neon")])
    refused("option eta belongs to diffusion models, and this model's head is masked", eta=1.0)
    refused("this model generates images of 16x16 only, as its network has learned positions", height=32, width=32)
    refused("give one of them", init=image, guides=[Inpaint(image=image, mask=mask)])
    tall, top = Image.new("RGB", (16, 48)), np.zeros((48, 16), np.uint8)
    top[:8] = 255
    tall.save(tmp_path / "tall.png")
    Image.fromarray(top).save(tmp_path / "top.png")
    guide = Inpaint(image=str(tmp_path / "tall.png"), mask=str(tmp_path / "top.png"))
    refused("the mask leaves nothing to generate", guides=[guide], fit="crop")
    region = f"region(mask='{mask}', prompt='a')"
    refused("a model of masked codes does not support weights of tokens by region", conditions=[region])


def test_networks_that_do_not_fit_are_refused(bundle):
    causal = {**bundle.config, "transformer": {**bundle.config["transformer"], "causal": True}}
    params = {**bundle.params, "transformer": tiny.random_params(causal, "transformer")}
    with pytest.raises(UserError, match="the transformer of model 'masked' is causal, and the head 'masked' takes one"):
        Generator.load(Bundle(causal, params, bundle.tokenizer)).plan("a red boat")
    with pytest.raises(UserError, match="sees all codes, and the head 'autoregressive' takes a causal one"):
        Generator.load(Bundle({**bundle.config, "head": "autoregressive", "sampling": {"condition": "text"}},
                              bundle.params, bundle.tokenizer)).plan("a red boat", height=16, width=16)  # fmt: skip
    with pytest.raises(UserError, match="predicts 12 codes, and its first stage has 11"):
        Bundle({**bundle.config, "autoencoder": {**bundle.config["autoencoder"], "num_codes": 11}},
               {**bundle.params, "autoencoder": {**bundle.params["autoencoder"],
                "codebook": bundle.params["autoencoder"]["codebook"][:11]}})  # fmt: skip


def test_the_transformer_sees_every_position(bundle):
    module, params = bundle.transformer, {"params": bundle.params["transformer"]}
    codes = jnp.full((2, SIDE**2), module.mask_token).at[1, -1].set(3)
    condition = Condition(jnp.ones((2, 1, 16)))
    logits = jax.jit(module.apply)(params, codes, condition)
    assert logits.shape == (2, SIDE**2, CODES) and float(jnp.abs(logits[0, 0] - logits[1, 0]).max()) > 1e-4


@pytest.mark.slow
def test_the_command_line_samples_replays_and_edits(bundle, files, tmp_path, capsys):
    bundle.save(tmp_path / "model", dtype="float32")
    places = ["--model", str(tmp_path / "model"), "--seed", "3", "--quiet"]
    query = ["a red boat", "--condition", "text", "--choice-temperature", "2", "--guidance-schedule", "growing"]
    assert main(["sample", *query, *places, "--previews", "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["model"]["head"] == "masked"
    assert record["options"]["choice_temperature"] == 2.0 and record["options"]["guides"] == []
    (image,) = (tmp_path / "out").glob("00000-*.png")
    capsys.readouterr()
    assert main(["replay", str(image), "--model", str(tmp_path / "model")]) == 0
    assert "identical to the image in the file" in capsys.readouterr().err
    pixels, file, mask = files
    edited = ["--image", file, "--prompt", "a red boat", *places]
    assert main(["edit", "inpaint", *edited, "--mask", mask, "--out", str(tmp_path / "painted")]) == 0
    painted = np.asarray(Image.open(next((tmp_path / "painted").glob("00000-*.png"))))
    np.testing.assert_array_equal(painted[:, :8], pixels[:, :8])
    assert main(["edit", "img2img", *edited, "--strength", "0.5", "--out", str(tmp_path / "from")]) == 0
    assert "images of 16x16 only" not in capsys.readouterr().err
    for action, message in (("invert", "does not support inversion"), ("mix", "does not support mixing")):
        assert main(["edit", action, *edited, "--out", str(tmp_path / "refused")]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert message in error and error.endswith("use a model that does")
