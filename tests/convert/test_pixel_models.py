"""ADM, GLIDE and what guides them: the originals' networks, every published name, and files that do not fit."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.convert import adm, glide, noised_clip
from rdm_jax.convert.conversion import convert
from rdm_jax.convert.mapping import assemble
from rdm_jax.convert.weights import read_tensors
from rdm_jax.core.errors import UserError
from rdm_jax.factory import schedule_from
from rdm_jax.models import build_noised_encoder
from rdm_jax.models.condition import Condition
from tests.helpers.pixel_models import ADM, GLIDE, data_of, golden_bundle, with_flags


def close(found, expected):
    """Compares a network's output with the original's."""
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def output(bundle, data, condition):
    """Returns the output of a bundle's denoiser for golden noisy images and times."""
    apply = jax.jit(bundle.denoiser.apply)
    return apply({"params": bundle.params["denoiser"]}, data["x"], jnp.asarray(data["t"], jnp.float32), condition)


@pytest.mark.slow
@pytest.mark.parametrize("model", ADM)
def test_adm_computes_what_the_original_does(golden, model):
    bundle, data = golden_bundle(golden, model), data_of(golden, model)
    vector = jax.nn.one_hot(data["y"], 10) if "y" in data else None
    close(output(bundle, data, Condition(vector=vector, channels=data.get("upsampled"))), data["out"])


@pytest.mark.slow
@pytest.mark.parametrize("model", GLIDE)
def test_glide_computes_what_the_original_does(golden, model):
    bundle, data = golden_bundle(golden, model), data_of(golden, model)
    encode = jax.jit(bundle.text_encoder.apply)

    def states(tokens, mask):
        ids = np.where(data[mask], data[tokens], bundle.config["text_encoder"]["pad_id"]).astype(np.int32)
        return encode({"params": bundle.params["text_encoder"]}, ids)

    given, null = states("tokens", "mask"), states("uncond_tokens", "uncond_mask")
    close(given, np.moveaxis(data["xf_out"], 1, 2))
    pieces = [data["inpaint_image"] * data["inpaint_mask"], data["inpaint_mask"]] if "inpaint_mask" in data else []
    if "low_res" in data:
        pieces.append(jax.image.resize(data["low_res"], data["x"].shape, "bilinear", antialias=False))
    channels = np.concatenate(pieces, axis=-1) if pieces else None
    for context, expected in ((given, "out"), (null, "out_uncond")):
        close(output(bundle, data, Condition(context, vector=context[:, -1], channels=channels)), data[expected])


def test_the_classifier_of_adm_computes_what_the_original_does(golden):
    bundle, data = golden_bundle(golden, "cond64", "classifier"), data_of(golden, "classifier")
    apply = jax.jit(bundle.noised_classifier.apply)
    t = jnp.asarray(data["t"], jnp.float32)
    close(apply({"params": bundle.params["noised_classifier"]}, data["x"], t), data["logits"])


def test_the_noised_clip_of_glide_computes_what_the_original_does(golden):
    bundle, data = golden_bundle(golden, "base", "noised_clip"), data_of(golden, "noised_clip")
    t, tokens, lengths = (jnp.asarray(data[name], jnp.int32) for name in ("t", "text_tokens", "text_len"))
    apply = jax.jit(bundle.noised_clip.apply)
    image, text = apply({"params": bundle.params["noised_clip"]}, data["x"], t, tokens, lengths)
    close(image, data["image_features"])
    close(text, data["text_features"])


def published(golden, name):
    """Returns zeros with the names and shapes of a published state dict, which take no memory."""
    file = golden.parent / "spec" / "keys" / f"{name}.tsv"
    if not file.is_file():
        pytest.skip("the tables of published names are not beside the golden outputs")
    rows = (row.split("\t") for row in file.read_text().splitlines())
    return {name: np.broadcast_to(np.float32(0), tuple(map(int, shape.split("x")))) for name, shape, _ in rows}


SIZES = {
    "adm_64x64_diffusion": (64, {"num_head_channels": 64}, "cosine", True),
    "adm_128x128_diffusion": (128, {"num_heads": 4}, "linear", False),
    "adm_256x256_diffusion": (256, {"num_head_channels": 64}, "linear", False),
    "adm_256x256_diffusion_uncond": (256, {"num_head_channels": 64}, "linear", False),
    "adm_512x512_diffusion": (512, {"num_head_channels": 64}, "linear", False),
    "adm_lsun_bedroom": (256, {"num_head_channels": 64}, "linear", False),
    "adm_64_256_upsampler": (256, {"num_heads": 4}, "linear", False),
    "adm_128_512_upsampler": (512, {"num_head_channels": 64}, "linear", False),
}
"""Published flags: image_size, heads, noise_schedule, use_new_attention_order (guided-diffusion's README)."""


def stored(recipes):
    """Returns the number of scalars in recipes."""
    return sum(int(np.prod(recipe.shape)) for recipe in recipes.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_every_name_of_a_published_adm_has_its_place(golden, name):
    state = published(golden, name)
    settings, flags = adm.config(state, {})
    size, heads, schedule, new_order = SIZES[name]
    assert (flags.image_size, flags.heads, flags.noise_schedule) == (size, heads, schedule)
    assert flags.use_new_attention_order == new_order and settings["out_channels"] == 6
    assert (settings["vector_dim"] == 0) == (name.endswith("uncond") or "lsun" in name)
    assert stored(adm.recipes(state, settings, flags, frozenset())) == sum(value.size for value in state.values())


@pytest.mark.slow
@pytest.mark.parametrize("side", [64, 128, 256, 512])
def test_every_name_of_a_published_classifier_has_its_place(golden, side):
    state = published(golden, f"adm_{side}x{side}_classifier")
    settings = adm.classifier_config(state, {})
    assert settings["latent_size"] == side and len(settings["classes"]["class"]) == 1000
    assert stored(adm.classifier_recipes(state, settings, frozenset())) == sum(value.size for value in state.values())


@pytest.mark.slow
@pytest.mark.parametrize("model", GLIDE)
def test_every_name_of_a_published_glide_has_its_place(golden, model):
    state = published(golden, f"glide_{model}")
    settings, text, flags = glide.config(state, {})
    assert (text["layers"], text["heads"], text["context_length"], text["vocab_size"]) == (16, 8, 128, 50257)
    assert flags.image_size == (256 if "upsample" in model else 64)
    parts = glide.recipes(state, settings, flags, frozenset()), glide.text_recipes(state, text, frozenset())
    assert sum(map(stored, parts)) == sum(value.size for value in state.values())
    sections = glide.sections(settings, flags)
    schedule = schedule_from(sections["diffusion"])
    golden_betas = data_of(golden, "tokens_and_schedules")[
        "linear_betas" if "upsample" in model else "squaredcos_cap_v2_betas"
    ]
    np.testing.assert_allclose(schedule.betas, golden_betas, rtol=1e-9)


def test_every_name_of_the_published_noised_clip_has_its_place(golden):
    image, text = (published(golden, f"glide_clip_{tower}_enc") for tower in ("image", "text"))
    settings = noised_clip.config(image, text)
    assert (settings["image_size"], settings["image_heads"], settings["text_heads"]) == (64, 12, 8)
    keys = 12 * (768 + 512)  # whose bias is zeros in ours, and absent in the files
    total = sum(value.size for state in (image, text) for value in state.values())
    assert stored(noised_clip.recipes(image, text, settings, frozenset())) == total + keys


def test_queries_keys_and_values_in_the_new_order_are_grouped_by_head(golden):
    # Both orders of one attention: the golden model stores the new one, a permutation of the legacy one.
    state = read_tensors(golden / "heads/adm/cond64_small.pt")
    flags = json.loads((golden / "heads/adm/flags.json").read_text())["cond64"]
    settings, new = adm.config(state, flags)
    legacy = adm.config(state, {**flags, "use_new_attention_order": False})[1]
    name, kernels = "middle_block.1.qkv.weight", []
    for order in (new, legacy):
        kernels.append(assemble(adm.recipes(state, settings, order, frozenset()))["mid_1_attn"]["qkv"]["kernel"])
    np.testing.assert_array_equal(kernels[1], np.asarray(state[name])[:, :, 0].T)
    heads = kernels[0].reshape(32, 2, 3, 16)
    np.testing.assert_array_equal(heads.transpose(0, 2, 1, 3).reshape(32, 96), kernels[1])


def test_files_and_flags_that_do_not_fit_are_refused(golden, tmp_path):
    model = with_flags(golden, "cond64", tmp_path)
    flags = model.with_suffix(".json")
    own = json.loads(flags.read_text())

    def refused(message, **options):
        with pytest.raises(UserError, match=message):
            convert(model, **options)

    flags.write_text(json.dumps({**own, "num_channels": 64}))
    refused("the flags say num_channels=64, and the weights of this ADM have num_channels=32")
    flags.write_text(json.dumps({**own, "noise_schedule": "exponential"}))
    refused("unknown noise schedule 'exponential'")
    flags.write_text(json.dumps({**own, "colors": 3}))
    refused("unknown flag of ADM 'colors'")
    flags.unlink()
    refused("the weights are of no published ADM")
    flags.write_text(json.dumps({**own, "image_size": 32}))
    classifier = with_flags(golden, "classifier", tmp_path)
    refused("takes images of 16x16, and .* makes 32x32", classifier=classifier)
    flags.write_text(json.dumps(own))
    refused("is no classifier of noisy images", classifier=model)
    halves = tuple(with_flags(golden, f"clip_{tower}_enc", tmp_path, "glide") for tower in ("image", "text"))
    refused("are not the two halves", noised_clip=(halves[0], halves[0]))
    with pytest.raises(UserError, match="is one half of a CLIP of noisy images"):
        convert(halves[1])


def test_a_classifier_is_converted_alone(golden, tmp_path):
    converted = convert(with_flags(golden, "classifier", tmp_path))
    assert converted.kind == adm.CLASSIFIER and set(converted.parts) == {"noised_classifier"}
    assert build_noised_encoder(converted.config["noised_classifier"]).latent_size == 16
