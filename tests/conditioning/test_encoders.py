"""Several encoders as conditions: where the tokens of each are, what leaving one out does, records, and errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rdm_jax.bundle import Bundle
from rdm_jax.cli.main import main
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.models.condition import Condition
from rdm_jax.retrieval.database import Database
from tests.helpers import encoders, tiny

PLACES = {
    "clip_text": (1, 2),
    "clip_states": (2, 10),
    "text_states": (10, 16),
    "clip_image": (16, 17),
    "neighbors": (17, 19),
}


@pytest.fixture(scope="module")
def bundle():
    return encoders.bundle()


@pytest.fixture(scope="module")
def generator(bundle):
    return Generator.load(bundle)


@pytest.fixture(scope="module")
def given(bundle, tmp_path_factory):
    """A database and a reference image, as options."""
    root = tmp_path_factory.mktemp("given")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "reference.png")
    database = Database.open(tiny.database(root, "squares", bundle))
    return {
        "database": database,
        "condition": "text+neighbors",
        "reference_image": str(root / "reference.png"),
        "steps": 1,
    }


@pytest.fixture(scope="module")
def context(generator, given):
    """A function of options that returns the given condition and the null one of one prompt."""

    def of(prompt="a red boat", **options):
        built = generator.plan(prompt, **{**given, **options}).context
        return built.given, built.null

    return of


def norm(x, scale, bias):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias


def test_the_tokens_are_those_of_each_encoder_by_its_own_projection(generator, bundle, given, context):
    own, _ = context()
    assert own.tokens.shape == (1, 19, tiny.WIDTH) and own.vector.shape == (1, 2 * tiny.WIDTH)
    plan, params = generator.plan("a red boat", **given), bundle.params["encoder_tokens"]
    image = generator.encoder.encode_images([np.asarray(Image.open(given["reference_image"]))])
    vectors = {"clip_text": plan.queries, "clip_image": image, "neighbors": plan.neighbors.embeddings[0]}
    for name, one in vectors.items():
        kernel, offset = (params[f"projection_{name}"][key] for key in ("kernel", "bias"))
        expected = norm(one @ kernel + offset, *(params[f"norm_{name}"][key] for key in ("scale", "bias")))
        begin, end = PLACES[name]
        np.testing.assert_allclose(own.tokens[0, begin:end], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(own.tokens[0, 0], params["null"])
    np.testing.assert_allclose(own.vector, np.concatenate([plan.queries, image], axis=1), rtol=1e-5)
    words = 5  # a start, "a", "red", "boat" and an end, of eight tokens that CLIP reads
    assert own.weights[0, 2:10].tolist() == [1.0] * words + [0.0] * (8 - words)
    assert (np.delete(own.weights[0], np.arange(2, 10)) == 1).all()


@pytest.mark.parametrize("name", encoders.NAMES)
def test_what_is_left_out_has_weight_0_and_changes_nothing_else(context, name):
    whole, _ = context()
    left, _ = context(leave_out=name)
    begin, end = PLACES[name]
    np.testing.assert_array_equal(left.tokens, whole.tokens)
    expected = whole.weights.copy()
    expected[:, begin:end] = 0.0
    np.testing.assert_array_equal(left.weights, expected)
    zeroed = {"clip_text": slice(0, 16), "clip_image": slice(16, 32)}.get(name, slice(0))
    expected = whole.vector.copy()
    expected[:, zeroed] = 0.0
    np.testing.assert_array_equal(left.vector, expected)


def test_without_any_encoder_a_prompt_is_the_null_condition(context, bundle):
    own, null = context(leave_out=" , ".join(encoders.NAMES))
    np.testing.assert_array_equal(own.weights, null.weights)
    assert own.weights[0].tolist() == [1.0] + [0.0] * 18 and not own.vector.any() and not null.vector.any()
    np.testing.assert_array_equal(own.tokens[:, :1], null.tokens[:, :1])
    module, params = bundle.denoiser, {"params": bundle.params["denoiser"]}
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 2))
    run = jax.jit(lambda condition: module.apply(params, x, jnp.full((1,), 500.0), condition))
    outputs = [run(Condition(one.tokens, one.weights, vector=one.vector)) for one in (own, null, context()[0])]
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-6)
    assert np.abs(outputs[2] - outputs[1]).max() > 1e-3


def test_conditions_leave_out_what_they_do_not_name(context):
    text, _ = context(condition="text", database=None)
    assert text.tokens.shape[1] == 17  # no places of neighbors
    neighbors, _ = context(condition="neighbors", reference_image="")
    assert neighbors.tokens.shape[1] == 18  # no place of an image
    assert neighbors.weights[0].tolist() == [1.0] + [0.0] * 15 + [1.0] * 2


def test_a_negative_prompt_is_without_the_reference(context):
    _, null = context(conditions=["negative(prompt='a blue tree')"], condition="text", database=None)
    assert null.tokens.shape[1] == 17 and null.weights[0, 1] == 1 and not null.vector[0, 16:].any()
    assert null.vector[0, :16].any() and null.weights[0].sum() > 3


@pytest.mark.slow
def test_a_model_on_disk_samples_replays_and_leaves_out(bundle, given, tmp_path, capsys, own_environment):
    bundle.save(tmp_path / "model", dtype="float32")
    places = ["--model", str(tmp_path / "model"), "--quiet", "--seed", "3", "--steps", "1", "--condition", "text"]
    options = ["--reference-image", given["reference_image"], "--leave-out", "text_states"]
    assert main(["sample", "a red boat", *places, *options, "--out", str(tmp_path / "out")]) == 0
    (image,) = (tmp_path / "out").glob("00000-*.png")
    capsys.readouterr()
    assert main(["replay", str(image), "--model", str(tmp_path / "model")]) == 0
    assert "identical to the image in the file" in capsys.readouterr().err
    opened = Bundle.open(tmp_path / "model")
    assert opened.encoder_tokens.dims == bundle.encoder_tokens.dims
    assert main(["sample", "a red boat", *places, "--leave-out", "t5", "--out", str(tmp_path / "no")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "unknown encoder 't5' (known: clip_image, clip_states, " in line


def test_what_a_model_does_not_have_is_refused_in_one_line(given, tmp_path):
    def refused(match, names, **options):
        with pytest.raises(UserError, match=match) as error:
            Generator.load(encoders.bundle(names)).plan("a red boat", **options)
        assert "\n" not in str(error.value)

    refused(
        "unknown encoder 'clip_image'; did you mean 'clip_text'",
        ("clip_text",),
        leave_out="clip_image",
        condition="text",
    )
    refused(
        "needs an encoder clip_image, and model 'tiny' has clip_text; leave the reference out",
        ("clip_text",),
        reference_image=given["reference_image"],
        condition="text",
    )
    refused("takes no neighbors; use --condition text", ("clip_text",), database=given["database"])
    options: list[dict[str, Any]] = [{"leave_out": "clip_text"}, {"reference_image": "a.png"}]
    for option in options:
        with pytest.raises(UserError, match="applies to models with a part encoder_tokens, and this one has none"):
            Generator.load(tiny.bundle()).plan("a red boat", condition="text", **option)


def test_conditions_over_the_steps_need_equal_tokens(generator, given, bundle):
    def refused(match, condition, model=generator, **options):
        with pytest.raises(UserError, match=match):
            model.plan("a red boat", **{**given, **options}, conditions=[condition])

    refused("interleave is not for models with several encoders", "interleave()")
    refused("vectors beside the time, which do not turn into others", "switch(prompt='a blue tree')")
    without = Generator.load(encoders.bundle(("clip_states", "neighbors")))
    refused("other tokens; give a prompt of as many", "switch(prompt='boat')", without, reference_image="")
    plan = without.plan("a red boat", **(given | {"reference_image": ""}), conditions=["switch(prompt='a blue tree')"])
    assert plan.context.given.target.shape == (1, 11, tiny.WIDTH)


def test_parts_that_do_not_fit_are_refused(bundle):
    def changed(**changes):
        config = {**bundle.config["encoder_tokens"], **changes}
        params = tiny.random_params({"encoder_tokens": config}, "encoder_tokens")
        return Bundle({**bundle.config, "encoder_tokens": config}, {**bundle.params, "encoder_tokens": params})

    assert changed().encoder_tokens.vector_dim == 32
    with pytest.raises(UserError, match="the encoder_tokens of model 'tiny' have 8 numbers where its denoiser has 16"):
        changed(token_dim=8)
    sizes = [7 if name == "text_states" else 16 for name in encoders.NAMES]
    with pytest.raises(UserError, match="have 7 numbers where its text_encoder has 8"):
        changed(sizes=sizes)
