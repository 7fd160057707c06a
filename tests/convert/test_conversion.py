"""Whole conversions of the original programs' files, and of sources that should be refused."""

from __future__ import annotations

import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rdm_jax.bundle import Bundle
from rdm_jax.convert import converted
from rdm_jax.convert.conversion import convert
from rdm_jax.convert.converted import RAW
from rdm_jax.convert.torch_file import read_state_dict
from rdm_jax.core import files, trees
from rdm_jax.core.errors import UserError
from rdm_jax.factory import decoder_from
from rdm_jax.generator import Generator
from rdm_jax.models.condition import Condition
from rdm_jax.retrieval.database import Database
from tests.helpers import tiny


@pytest.fixture(scope="module")
def bundles(golden, tmp_path_factory):
    """A function that converts a golden file by its name, once."""
    folder = tmp_path_factory.mktemp("bundles")

    def bundle(name, **options):
        out = folder / "-".join([name.replace("/", "-"), *map(str, options.values())])
        if not out.exists():
            convert(golden / name, **options).write(out)
        return Bundle.open(out)

    return bundle


@pytest.mark.slow
def test_a_checkpoint_computes_what_the_original_does(golden, bundles, nhwc, close):
    bundle = bundles("rdm_small.ckpt")
    assert set(bundle.params) == {"denoiser", "autoencoder"} and bundle.config["latents"] == {"scale": 0.22765929}
    assert bundle.config["conditioning"] == {"neighbors": 10, "unit_tokens": True, "null": "zeros"}
    assert bundle.config["sampling"]["guidance_scale"] == 5.0 and bundle.config["sampling"]["height"] == 256
    data = np.load(golden / "unet.npz")
    x, t, context = nhwc(data["x"]), jnp.asarray(data["t"], jnp.int32), Condition(jnp.asarray(data["context"]))
    close(jax.jit(bundle.denoiser.apply)({"params": bundle.params["denoiser"]}, x, t, context), data["out_ema"])
    assert bundle.tokenizer is None
    run = np.load(golden / "ddim.npz")
    decode = jax.jit(decoder_from(bundle.autoencoder, bundle.config["latents"]))
    close(decode(bundle.params["autoencoder"], nhwc(run["samples"][:1])), run["decoded0"])


def test_a_checkpoint_without_moving_averages_says_so(golden, tmp_path):
    state = read_state_dict(golden / "rdm_small.ckpt")
    save_file({name: np.array(state[name]) for name in state if "ema" not in name}, tmp_path / "model.safetensors")
    shutil.copy(golden / "rdm_small.yaml", tmp_path / "model.yaml")
    for weights in (None, "ema", "both"):
        with pytest.raises(UserError, match=r"holds no moving average of its weights .*; give --weights raw") as caught:
            convert(tmp_path / "model.safetensors", weights=weights)
        assert len(str(caught.value)) < 400
    assert convert(tmp_path / "model.safetensors", weights="raw").config["weights"] == "raw"


def test_reports_of_names_stay_short(golden, tmp_path):
    state = read_state_dict(golden / "rdm_small.ckpt")
    kept = {name: np.array(state[name]) for name in state if "input_blocks" not in name}
    save_file(kept, tmp_path / "model.safetensors")
    shutil.copy(golden / "rdm_small.yaml", tmp_path / "model.yaml")
    with pytest.raises(UserError, match=r"\d+ missing: .* and \d+ more") as caught:
        convert(tmp_path / "model.safetensors")
    assert len(str(caught.value)) < 1500


def test_the_models_of_april_2023_have_their_own_conventions(bundles):
    bundle = bundles("rdm_vq_small.ckpt")
    assert bundle.config["conditioning"] == {"neighbors": 3, "unit_tokens": False, "null": "zeros"}
    assert bundle.config["sampling"]["steps"] == 100 and bundle.config["sampling"]["guidance_scale"] == 2.0
    assert bundle.config["diffusion"]["beta_end"] == 0.0195 and bundle.config["autoencoder"]["num_codes"] == 64


def test_raw_weights_and_both(golden, bundles):
    state = read_state_dict(golden / "rdm_small.ckpt")
    raw = bundles("rdm_small.ckpt", weights="raw").params["denoiser"]["conv_out"]["kernel"]
    ema = bundles("rdm_small.ckpt").params["denoiser"]["conv_out"]["kernel"]
    np.testing.assert_array_equal(raw, state["model.diffusion_model.out.2.weight"].transpose(2, 3, 1, 0))
    assert np.abs(raw - ema).max() > 0
    both = bundles("rdm_small.ckpt", weights="both")
    assert both.path is not None
    np.testing.assert_array_equal(load_file(both.path / f"{RAW}.safetensors")["conv_out/kernel"], raw)
    np.testing.assert_array_equal(both.params["denoiser"]["conv_out"]["kernel"], ema)


def test_the_manifest_names_sources_and_parts(golden, bundles):
    bundle = bundles("rdm_small.ckpt")
    assert bundle.path is not None
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    assert manifest["sources"][f"{golden.name}/rdm_small.ckpt"] == files.sha256(golden / "rdm_small.ckpt")
    assert manifest["parts"] == {part: files.sha256(bundle.path / f"{part}.safetensors") for part in bundle.params}


@pytest.mark.parametrize("name", ["kl_f16", "vq_f4", "vq_f8", "vq_f16", "vq_f4_noattn"])
def test_first_stages_are_recognized_by_their_names(golden, bundles, name):
    bundle = bundles(f"{name}_small.ckpt")
    assert set(bundle.params) == {"autoencoder"}
    state = read_state_dict(golden / f"{name}_small.ckpt")
    kept = [key for key in state if not key.startswith(("loss.", "model_ema."))]
    assert trees.count(bundle.params["autoencoder"]) == sum(state[key].size for key in kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data"), [("hf_clip", "hf_clip"), ("openai_vit.pt", "openai_vit"), ("openai_rn.pt", "openai_rn")]
)
def test_clips_compute_what_their_programs_do(golden, bundles, nhwc, close, name, data):
    bundle, data = bundles(f"clip/{name}"), np.load(golden / f"clip/{data}.npz")
    variables = {"params": bundle.params["clip"]}
    tokens = jnp.asarray(data["input_ids"], jnp.int32)
    text, image = (jax.jit(partial(bundle.clip.apply, method=f"encode_{name}")) for name in ("text", "image"))
    close(text(variables, tokens), data["text_features"])
    close(image(variables, nhwc(data["pixel_values"])), data["image_features"])
    assert bundle.config["clip"]["mean"] == [0.48145466, 0.4578275, 0.40821073]


def test_a_clip_is_added_to_a_model_of_its_width(golden, tmp_path):
    # The golden models and CLIPs have vectors of different lengths, as a user's may by mistake.
    with pytest.raises(UserError, match="have length 40, and the denoiser takes 32"):
        convert(golden / "rdm_small.ckpt", clip_source=golden / "clip/hf_clip")
    with pytest.raises(UserError, match="CompVis first stage and no CLIP"):
        convert(golden / "rdm_small.ckpt", clip_source=golden / "kl_f16_small.ckpt")
    with pytest.raises(UserError, match="has a CLIP itself"):
        convert(golden / "clip/openai_vit.pt", clip_source=golden / "clip/hf_clip")
    converted = convert(golden / "kl_f16_small.ckpt", clip_source=golden / "clip/hf_clip")
    converted.write(tmp_path / "both")
    again = convert(golden / "vq_f4_small.ckpt", clip_source=tmp_path / "both")
    again.write(tmp_path / "again")
    one, other = (Bundle.open(tmp_path / name).params["clip"] for name in ("both", "again"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(("name", "tokens", "guidance"), [("rdm_small", 11, 5.0), ("rdm_vq_small", 4, 2.0)])
@pytest.mark.slow
def test_a_converted_model_generates_with_its_own_defaults(golden, tmp_path, name, tokens, guidance):
    width = {**tiny.CONFIG["clip"], "embed_dim": 32}
    model = tiny.bundle(clip=width)
    model.save(tmp_path / "tower", dtype="float32")
    convert(golden / f"{name}.ckpt", clip_source=tmp_path / "tower").write(tmp_path / "model")
    # The database was built with the CLIP before it was added: its weights are the same file.
    database = tiny.database(tmp_path, "squares", Bundle.open(tmp_path / "tower"))
    generator = Generator.load(tmp_path / "model")
    plan = generator.plan("a red boat", database=Database.open(database), steps=4, height=128, width=128)
    assert plan.options.guidance_scale == guidance and plan.request.neighbors == tokens - 1
    result = next(iter(generator.generate(plan)))
    assert result.images.shape == (1, 128, 128, 3) and result.images.std() > 1


def test_half_precision_is_kept_as_stored(golden, tmp_path):
    folder = shutil.copytree(golden / "clip/hf_clip", tmp_path / "half")
    state = {name: np.asarray(value, np.float16) for name, value in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors")
    convert(folder).write(tmp_path / "out")
    stored = load_file(tmp_path / "out/clip.safetensors")
    assert {array.dtype for array in stored.values()} == {np.dtype(np.float16)}
    np.testing.assert_array_equal(stored["vision/projection/kernel"], state["visual_projection.weight"].T)
    assert Bundle.open(tmp_path / "out").params["clip"]["vision"]["projection"]["kernel"].dtype == np.float32


def _clip_copy(golden, tmp_path, change):
    folder = shutil.copytree(golden / "clip/hf_clip", tmp_path / "copy")
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    return folder


def test_names_that_may_be_missing_or_unused_are_given(golden, tmp_path):
    def change(state):
        del state["visual_projection.weight"]
        state["stranger"] = np.zeros(1, np.float32)

    folder = _clip_copy(golden, tmp_path, change)
    with pytest.raises(UserError, match=r"1 missing: visual_projection\.weight; 1 unexpected: stranger"):
        convert(folder)
    convert(folder, allowed=frozenset({"visual_projection.weight", "stranger"})).write(tmp_path / "out")
    assert not Bundle.open(tmp_path / "out").params["clip"]["vision"]["projection"]["kernel"].any()


def test_numbers_that_are_not_finite_are_named_and_nothing_is_written(golden, tmp_path):
    def change(state):
        state["text_projection.weight"][0, 0] = np.nan

    with pytest.raises(UserError, match=r"text_projection\.weight holds numbers that are not finite"):
        convert(_clip_copy(golden, tmp_path, change)).write(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_full_disk_writes_nothing(golden, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(converted, "write_safetensors", full)
    with pytest.raises(UserError, match="No space left on device; make room there"):
        convert(golden / "clip/openai_vit.pt").write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "cut", "message"),
    [
        ("rdm_small.ckpt", 0.5, "is truncated; download it again"),
        ("clip/hf_clip/model.safetensors", 0.5, "no complete safetensors file"),
        ("rdm_small.yaml", 1.0, "neither a PyTorch checkpoint nor a safetensors file"),
        ("clip/hf_clip/config.json", 1.0, "neither a PyTorch checkpoint nor a safetensors file"),
        ("unet.npz", 1.0, "no data.pkl inside"),
    ],
)
def test_wrong_and_truncated_files_are_refused(golden, tmp_path, name, cut, message):
    data = (golden / name).read_bytes()
    (tmp_path / "file").write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "file", config=golden / "rdm_small.yaml")


def test_a_header_that_does_not_fit_is_refused(golden, tmp_path):
    folder = shutil.copytree(golden / "clip/hf_clip", tmp_path / "copy")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[:8] = (2**40).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="no complete safetensors file"):
        convert(folder)


def test_the_yaml_must_exist_and_fit(golden, tmp_path):
    shutil.copy(golden / "rdm_small.ckpt", tmp_path / "model.ckpt")
    with pytest.raises(UserError, match="needs the yaml that came with it; give it by --config"):
        convert(tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=r"the weights do not fit the .*mis-shaped"):
        convert(tmp_path / "model.ckpt", config=golden / "rdm_vq_small.yaml")
    with pytest.raises(UserError, match=r"no yaml with model\.params"):
        convert(tmp_path / "model.ckpt", config=golden / "clip/hf_clip/config.json")
    with pytest.raises(UserError, match="unknown weights 'emma'; did you mean 'ema'"):
        convert(tmp_path / "model.ckpt", weights="emma")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clip/openai_vit.pt", {"config": "rdm_small.yaml"}, r"--config does not apply to .*OpenAI CLIP"),
        ("clip/hf_clip", {"weights": "raw"}, r"--weights does not apply to .*Hugging Face CLIP"),
        ("kl_f16_small.ckpt", {"weights": "ema"}, r"--weights does not apply to .*CompVis first stage"),
    ],
)
def test_an_option_without_effect_is_refused(golden, name, options, message):
    options = {key: golden / value if key == "config" else value for key, value in options.items()}
    with pytest.raises(UserError, match=message):
        convert(golden / name, **options)


def test_a_tokenizer_of_another_size_is_refused(golden, tmp_path):
    (tmp_path / "merges.txt").write_text("#version\nr e\nre d</w>\n")
    with pytest.raises(UserError, match="has 516 tokens and the text tower"):
        convert(golden / "clip/openai_vit.pt", tokenizer=tmp_path / "merges.txt")
    with pytest.raises(UserError, match="is not a readable tokenizer"):
        convert(golden / "clip/openai_vit.pt", tokenizer=golden / "rdm_small.ckpt")


def test_openais_merges_give_its_tokenizer(tmp_path):
    from rdm_jax.convert.tokenizer import read_tokenizer

    (tmp_path / "merges.txt").write_text("#version\nr e\nre d</w>\nb o\n")
    tokenizer = read_tokenizer(tmp_path / "merges.txt")
    # Ids by the order of OpenAI's vocabulary: "!" is byte 0, "a</w>" is 256 + 64, merges start at 512.
    assert tokenizer("A red  boat!")["input_ids"] == [515, 320, 513, 514, 64, 339, 256, 516]
