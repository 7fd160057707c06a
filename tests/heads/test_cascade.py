"""Two stages of masked codes: the second runs on the codes of the first; records, previews, edits, and errors."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rdm_jax.bundle import Bundle, with_fine_first_stage
from rdm_jax.cli.main import main
from rdm_jax.core.errors import UserError
from rdm_jax.factory import codes_encoder_from
from rdm_jax.generator import Generator
from rdm_jax.guidance import Inpaint
from rdm_jax.heads.masked import decoding
from rdm_jax.heads.masked.cascade import FINE_STREAM, CascadeProgram
from rdm_jax.heads.masked.decoding import UNKNOWN
from rdm_jax.heads.masked.program import FINE, network_from
from rdm_jax.retrieval.database import Database
from tests.helpers import fine, masked, tiny


@pytest.fixture(scope="module")
def bundle():
    return fine.bundle()


@pytest.fixture(scope="module")
def generator(bundle):
    return Generator.load(bundle)


def finished(generator, plan):
    """Returns the states of both stages after all steps, and the images."""
    indices, rows = np.asarray(plan.indices), np.asarray(plan.rows)
    program = generator._program(plan, len(indices))
    assert isinstance(program, CascadeProgram)
    state = program.start(plan, generator.bundle.params, indices, rows)
    while state.done < state.total:
        state = program.advance(state)
    return state, np.asarray(program.finish(state))


# One program for all tests.
OPTIONS: dict[str, Any] = {
    "steps": 2,
    "fine_steps": 2,
    "num_images": 2,
    "batch_size": 2,
    "seed": 5,
}


@pytest.mark.slow
def test_the_second_stage_decodes_given_the_codes_of_the_first(generator, bundle):
    """The program gives what the pure functions give when the second network reads the first stage's codes."""
    plan = generator.plan("a red boat", **OPTIONS)
    state, images = finished(generator, plan)
    assert state.fine is not None
    assert (state.base.done, state.fine.done, state.total) == (2, 2, 4) and images.shape == (2, 32, 32, 3)
    module, params, first = bundle.fine_transformer, bundle.params["fine_transformer"], state.base
    keys = jax.vmap(lambda key: jax.random.fold_in(key, FINE_STREAM))(jax.random.wrap_key_data(first.keys))

    @jax.jit
    def decode(coarse, conditions):
        given, null = (module.apply({"params": params}, coarse, one, method="read") for one in conditions)
        apply = network_from(module, params, (16, 16), FINE.method)
        carry = decoding.start(jnp.full((2, 256), UNKNOWN), 0, jnp.zeros((2, 256)))
        return decoding.advance(apply, carry, keys, plan.run.fine.steps, 1.0, given, null).codes

    codes = decode(first.carry.codes, first.conditions)
    np.testing.assert_array_equal(state.fine.carry.codes, codes)
    assert (codes >= 0).all() and (codes[0] != codes[1]).any()
    first_stage = {"params": bundle.params["fine_autoencoder"]}
    pixels = bundle.fine_autoencoder.apply(first_stage, codes.reshape(2, 16, 16), method="decode_codes")
    np.testing.assert_allclose(images, pixels, atol=2e-4)
    other = decode((first.carry.codes + 1) % masked.CODES, first.conditions)
    assert (other != codes).any()


def test_previews_have_the_final_size_and_end_with_the_image(generator):
    plan, shown = generator.plan("a red boat", **OPTIONS), []
    (result,) = generator.generate(plan, preview=lambda _, done, images: shown.append((done, images)))
    assert [done for done, _ in shown] == [2, 4] and all(images.shape == (2, 32, 32, 3) for _, images in shown)
    np.testing.assert_array_equal(shown[-1][1], result.images)
    squares = shown[0][1][0].reshape(16, 2, 16, 2, 3)  # the first stage's image, each pixel four times
    assert (squares == squares[:, :1, :, :1]).all()


@pytest.mark.slow
def test_the_first_stage_is_the_model_without_a_second(generator, bundle):
    state, _ = finished(generator, generator.plan("a red boat", **OPTIONS))
    alone = Generator.load(masked.bundle())
    plan = alone.plan("a red boat", **{**OPTIONS, "fine_steps": 0})
    program = alone._program(plan, 2)
    first = program.advance(program.start(plan, alone.bundle.params, np.arange(2), np.zeros(2, np.int64)))
    np.testing.assert_array_equal(state.base.carry.codes, first.carry.codes)


@pytest.mark.slow
def test_an_image_does_not_depend_on_its_batch_and_steps_may_differ(generator):
    both = generator.sample("a red boat", **OPTIONS).images.astype(int)
    alone = generator.sample("a red boat", **{**OPTIONS, "batch_size": 1}).images.astype(int)
    assert np.abs(both - alone).max() <= 2 and (both[0] != both[1]).any()
    same = generator.sample("a red boat", **{**OPTIONS, "fine_steps": 0}).images.astype(int)
    np.testing.assert_array_equal(both, same)  # by default as many as the steps
    assert (generator.sample("a red boat", **{**OPTIONS, "fine_steps": 4}).images.astype(int) != both).any()


@pytest.mark.slow
def test_neighbors_reach_both_stages(generator, bundle, tmp_path):
    database = Database.open(tiny.database(tmp_path, "squares", bundle))
    plan = generator.plan("a red boat", **OPTIONS, condition="text+neighbors", database=database)
    state, _ = finished(generator, plan)
    assert state.fine is not None
    assert state.base.conditions[0].tokens.shape == (2, 1 + 2, tiny.WIDTH)
    assert state.fine.conditions[0].tokens.shape == (2, 64 + 1 + 2, 16)  # coarse codes, the prompt and two neighbors


def test_edits_keep_the_known_codes_of_both_stages(generator, bundle, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 16:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    guide = Inpaint(image=str(tmp_path / "image.png"), mask=str(tmp_path / "mask.png"))
    plan = generator.plan("a red boat", guides=[guide], **OPTIONS)
    encode = jax.jit(codes_encoder_from(bundle.fine_autoencoder))
    codes = encode(bundle.params["fine_autoencoder"], jnp.asarray(pixels[None] / 127.5 - 1.0, jnp.float32))
    known = plan.run.fine.codes.reshape(16, 16)
    np.testing.assert_array_equal(known[:, :8], np.asarray(codes).reshape(16, 16)[:, :8])
    assert (known[:, 8:] == UNKNOWN).all() and (plan.run.codes.reshape(8, 8)[:, 4:] == UNKNOWN).all()
    assert (plan.run.codes.reshape(8, 8)[:, :4] >= 0).all()
    (result,) = generator.generate(plan)
    np.testing.assert_array_equal(result.images[:, :, :16], np.broadcast_to(pixels[:, :16], (2, 32, 16, 3)))
    started = generator.plan("a red boat", steps=4, init=str(tmp_path / "image.png"), strength=0.5)
    assert started.run.total == started.run.fine.total == 2 and (started.run.fine.codes >= 0).all()
    assert 0 < started.run.hidden < 64 < started.run.fine.hidden < 256


@pytest.mark.slow
def test_the_command_line_samples_and_replays(bundle, tmp_path, capsys):
    bundle.save(tmp_path / "model", dtype="float32")
    places = ["--model", str(tmp_path / "model"), "--seed", "3", "--quiet"]
    query = ["a red boat", "--steps", "2", "--fine-steps", "1"]
    assert main(["sample", *query, *places, "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/run.json").read_text())["options"]["fine_steps"] == 1
    (image,) = (tmp_path / "out").glob("00000-*.png")
    assert np.asarray(Image.open(image)).shape == (32, 32, 3)
    capsys.readouterr()
    assert main(["replay", str(image), "--model", str(tmp_path / "model")]) == 0
    assert "identical to the image in the file" in capsys.readouterr().err
    assert main(["sample", "--help"]) == 0
    assert "--fine-steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coarse_codes": 11}, "was trained on 11 codes, and its transformer has 12; give the model that it was"),
        ({"coarse_tokens": 16}, "was trained on 16 positions, and its transformer has 64"),
        ({"context_dim": 8}, "was trained on 8 numbers of a context token, and its transformer has 16"),
        ({"num_codes": 19}, "the fine_transformer of model 'fine' predicts 19 codes, and its first stage has 20"),
        ({"num_tokens": 80}, "the fine_transformer of model 'fine' has 80 positions, and they are not the codes of a"),
    ],
)
def test_stages_that_do_not_fit_each_other_are_refused(changes, message):
    square = {"square": 0} if "num_tokens" in changes else {}
    with pytest.raises(UserError, match=message) as error:
        fine.bundle(fine_transformer={**fine.NETWORK, **changes, **square})
    assert "\n" not in str(error.value)


def test_what_cannot_be_sampled_is_refused_in_one_line(generator, bundle, caplog):
    def refused(match, **options):
        with pytest.raises(UserError, match=match) as error:
            generator.plan("a red boat", **options)
        assert "\n" not in str(error.value)

    refused("fine_steps 257 is too large: every step decides a code or more, and an image has 256", fine_steps=257)
    refused("steps 65 is too large: every step decides a code or more, and an image has 64", steps=65)
    refused("fine steps -1 is too small; use 0 or more", fine_steps=-1)
    refused("this model generates images of 32x32 only", height=16, width=16)
    Generator.load(masked.bundle()).plan("a red boat", fine_steps=2)
    assert "fine_steps 2 has no effect: this model does not generate from coarse to fine" in caplog.text
    params = {part: tree for part, tree in bundle.params.items() if part != "fine_autoencoder"}
    config = {key: one for key, one in bundle.config.items() if key != "fine_autoencoder"}
    with pytest.raises(UserError, match="model 'fine' has no fine_autoencoder"):
        Generator.load(Bundle(config, params, bundle.tokenizer)).plan("a red boat")


def test_a_first_stage_is_joined_as_the_finer_one(bundle, tmp_path, capsys):
    def first_stage(model, part):
        return Bundle({"name": "vq", "autoencoder": model.config[part]}, {"autoencoder": model.params[part]})

    base = masked.bundle()
    joined = with_fine_first_stage(base, first_stage(bundle, "fine_autoencoder"))
    assert joined.name == "masked" and set(joined.params) == {*base.params, "fine_autoencoder"}
    assert joined.params["autoencoder"] is base.params["autoencoder"]
    with pytest.raises(UserError, match="the fine_transformer of model 'fine' predicts 20 codes, and its first stage"):
        with_fine_first_stage(bundle, first_stage(base, "autoencoder"))
    with pytest.raises(UserError, match="model 'clip' has no autoencoder"):
        with_fine_first_stage(
            base, Bundle({"name": "clip", "clip": base.config["clip"]}, {"clip": base.params["clip"]})
        )
    for name, one in (("base", base), ("vq", first_stage(bundle, "fine_autoencoder"))):
        one.save(tmp_path / name, dtype="float32")
    places = [str(tmp_path / name) for name in ("base", "vq", "out")]
    assert main(["export", places[0], "--fine-first-stage", places[1], "--out", places[2]]) == 0
    assert "fine_autoencoder" in capsys.readouterr().err
    assert Bundle.open(places[2]).fine_autoencoder.num_codes == fine.CODES
