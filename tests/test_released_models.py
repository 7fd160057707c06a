"""The released models' configurations have the published sizes, and describe models that can be built."""

from __future__ import annotations

import pytest

from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.factory import parameter_counts, schedule_from
from rdm_jax.heads import head_of
from rdm_jax.models import abstract_params, build_clip
from rdm_jax.parts import PARTS
from rdm_jax.parts import abstract_params as part_shapes
from rdm_jax.request import resolve
from rdm_jax.training.config import configs_folder, load_architecture, load_config

# Counted in the original programs, or printed by their authors to as many digits.
EXACT = {
    "rdm_768": {"denoiser": 1_335_480_400, "autoencoder": 69_610_963, "clip": 427_616_513},
    "rdm_imagenet": {"denoiser": 400_920_579, "clip": 151_277_313},
    "rdm_ffhq": {"denoiser": 414_713_603, "clip": 151_277_313},
    "sd15": {"denoiser": 859_520_964, "autoencoder": 83_653_863, "text_encoder": 123_060_480},
    # The text tower without its last block, its projection and its scale.
    "sd2_v": {
        "denoiser": 865_910_724,
        "autoencoder": 83_653_863,
        "text_encoder": 354_032_641 - 12_596_224 - 1024**2 - 1,
    },
    "dit_xl2": {"denoiser": 674_834_720},  # without 294,912 fixed positions that the release stores
    "sit_xl2": {"denoiser": 674_834_720 - 16 * 1153},  # and without the channels of a variance
    "uvit_l2": {"denoiser": 286_763_172},
    "frido_f16f8": {"denoiser": 511_678_088, "autoencoder": 67_994_775},
    "rarm_imagenet": {"transformer": 230_874_112, "clip": 151_277_313},
    "kl_f16": {"autoencoder": 69_610_963},
    "vit_vq_small": {"autoencoder": 51_956_771 - 2 * 1024 * 512},  # without stored positions, which are fixed
    "vit_vq_large": {"autoencoder": 615_322_915 - 1024 * (512 + 1280)},
    "clip_vit_b32": {"clip": 151_277_313},
    "clip_vit_b16": {"clip": 149_620_737},
    "clip_vit_l14": {"clip": 427_616_513},
}
MILLIONS = {
    "kl_f4": 55.3,
    "kl_f8": 83.7,
    "kl_f32": 103.9,
    "vq_f4": 55.3,
    "vq_f4_noattn": 53.2,
    "vq_f8": 67.7,
    "vq_f8_n256": 67.7,
    "vq_f16": 69.6,
}


def _config(name):
    return load_architecture(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_published_numbers_of_parameters(name):
    counts = parameter_counts(_config(name))
    assert set(counts) == set(PARTS) & set(_config(name))
    assert {part: counts[part] for part in EXACT[name]} == EXACT[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", MILLIONS)
def test_published_millions_of_parameters(name):
    assert parameter_counts(_config(name))["autoencoder"] / 1e6 == pytest.approx(MILLIONS[name], abs=0.05)


def test_the_resnet_clip_has_the_published_number_of_learned_parameters():
    settings = _config("clip_rn50x16").clip.to_dict()
    params = abstract_params(build_clip({key: settings[key] for key in ("embed_dim", "vision", "text")}))
    frozen = {name: leaf for name, leaf in params.items() if name.endswith(("/mean", "/var"))}
    assert frozen and trees.count(params) - trees.count(frozen) == 290_979_217


@pytest.mark.parametrize(
    ("name", "tokens", "scale", "size", "last"),
    [("rdm_768", 10, 5.0, 768, 0.015), ("rdm_imagenet", 3, 2.0, 256, 0.0195), ("rdm_ffhq", 3, 2.0, 256, 0.0195)],
)
def test_the_retrieval_models_sample_by_their_own_conventions(name, tokens, scale, size, last):
    config = _config(name).to_dict()
    request, options = resolve(config, head_of(config), {}, queries=1)
    assert (request.neighbors, options.guidance_scale, request.height) == (tokens, scale, size)
    assert schedule_from(config["diffusion"]).betas[-1] == pytest.approx(last)


def test_every_configuration_is_measured_here():
    assert {file.stem for file in (configs_folder() / "models").glob("*.py")} == {
        *EXACT,
        *MILLIONS,
        "clip_rn50x16",
        *("muse", "muse_fine", "parti"),
        *("frido", "frido_f16f8"),  # every name and shape, in tests/convert/test_frido.py
    }


@pytest.mark.slow
def test_muse_has_about_the_published_size():
    # The paper's 3 billion have two matrices in each feed-forward layer; the gated ones here have three.
    transformer = parameter_counts(_config("muse"))["transformer"]
    assert 3.0e9 < transformer - 48 * 2048 * 8192 < 3.1e9


def test_the_second_stage_of_muse_has_the_published_blocks():
    # 16 and 32 layers of 1,024 channels with MLPs of 4,096; the fine ones have a cross-attention too. Norms aside.
    shapes = part_shapes(_config("muse_fine").to_dict(), "fine_transformer")
    for prefix, layers, matrices in (("coarse/block_", 16, 4 + 8), ("transformer/block_", 32, 4 + 4 + 8)):
        kernels = {path: leaf for path, leaf in shapes.items() if path.startswith(prefix) and path.endswith("kernel")}
        assert trees.count(kernels) == layers * matrices * 1024**2
    assert shapes["transformer/positions"].shape == (64**2, 1024) and shapes["coarse/positions"].shape == (16**2, 1024)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "millions"), [("350m", 350), ("750m", 750), ("3b", 3000), ("20b", 20_000)])
def test_the_blocks_of_parti_have_the_published_sizes(size, millions):
    config, architecture = load_config(f"parti:{size}"), _config("parti").to_dict()
    text, model = config.text.to_dict(), config.model.to_dict()
    networks = {
        "text_encoder": {**architecture["text_encoder"], **text},
        "transformer": {**architecture["transformer"], **model, "context_dim": text["width"]},
    }
    shapes = [shape for part in networks for shape in part_shapes(networks, part).items()]
    blocks = {f"{number} {path}": leaf for number, (path, leaf) in enumerate(shapes) if path.startswith("block_")}
    assert trees.count(blocks) / 1e6 == pytest.approx(millions, rel=0.025)
    if size == "350m":
        assert {part: networks[part].get("layers", networks[part].get("depth")) for part in networks} == {
            "text_encoder": architecture["text_encoder"]["layers"],
            "transformer": architecture["transformer"]["depth"],
        }


def test_a_wrong_setting_is_named():
    with pytest.raises(UserError, match="kinds"):
        parameter_counts({"autoencoder": _config("kl_f4").autoencoder.to_dict() | {"kinds": "kl"}})
