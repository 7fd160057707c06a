"""LoRAs merged into the weights of a model, by the formula of their paper."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from rdm_jax.convert import lora
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from tests.helpers import tiny
from tests.helpers.stable_diffusion import golden_bundle

UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"
TEXT = "text_model.encoder.layers.1.self_attn.k_proj"
ENDS = {"kohya": ("lora_up", "lora_down"), "peft": ("lora_B", "lora_A"), "older": ("lora.up", "lora.down")}


def matrices(rank=2):
    rng = np.random.default_rng(0)

    def pair(up, down):
        return [rng.standard_normal(shape).astype(np.float32) for shape in (up, down)]

    shapes = {
        UNET: ((32, rank), (rank, 32)),
        CONV: ((32, rank, 1, 1), (rank, 32, 3, 3)),
        TEXT: ((32, rank), (rank, 32)),
    }
    return {name: pair(*shape) for name, shape in shapes.items()}


def named(kind, alpha=None):
    """Returns the tensors of a file of one of the three kinds."""
    tensors = {}
    for name, pair in matrices().items():
        part = "te" if name == TEXT else "unet"
        prefix = {"te": "text_encoder.", "unet": "unet."}[part] + name
        prefix = f"lora_{part}_{name.replace('.', '_')}" if kind == "kohya" else prefix
        tensors |= {f"{prefix}.{end}.weight": matrix for end, matrix in zip(ENDS[kind], pair, strict=True)}
        if alpha is not None:
            tensors[f"{prefix}.alpha"] = np.asarray(alpha, np.float32)
    return tensors


@pytest.mark.parametrize(("kind", "alpha", "factor"), [("kohya", 1.0, 0.5), ("peft", None, 1.0), ("older", None, 1.0)])
def test_differences_are_added_to_the_weights(golden, tmp_path, kind, alpha, factor):
    bundle = golden_bundle(golden, "sd1")
    save_file(named(kind, alpha), tmp_path / "lora.safetensors")
    merged = lora.merged(bundle, tmp_path / "lora.safetensors", 0.8)
    before, after = ({part: trees.flatten(one.params[part]) for part in one.params} for one in (bundle, merged))
    changes = {
        f"{part}/{path}": np.asarray(after[part][path]) - leaf
        for part, flat in before.items()
        for path, leaf in flat.items()
        if np.any(np.asarray(after[part][path]) != leaf)
    }
    query, conv, text = (
        "denoiser/in_1_attn/block_0/attn1/query/kernel",
        "denoiser/in_1_res/conv1/kernel",
        "text_encoder/block_1/qkv/kernel",
    )
    assert set(changes) == {query, conv, text}
    given = {
        name: 0.8 * factor * np.tensordot(up.reshape(len(up), -1), down, 1) for name, (up, down) in matrices().items()
    }
    np.testing.assert_allclose(changes[query], given[UNET].T, atol=1e-5)
    np.testing.assert_allclose(changes[conv], given[CONV].transpose(2, 3, 1, 0), atol=1e-5)
    np.testing.assert_allclose(changes[text][:, 32:64], given[TEXT].T, atol=1e-5)
    assert not changes[text][:, :32].any() and not changes[text][:, 64:].any()
    assert [one["weight"] for one in merged.config["loras"]] == [0.8]


def test_a_weight_of_zero_changes_nothing_and_weights_add_up(golden, tmp_path):
    bundle, file = golden_bundle(golden, "sd1"), str(tmp_path / "lora.safetensors")
    save_file(named("kohya"), file)
    jax.tree.map(np.testing.assert_array_equal, lora.merge_all(bundle, [f"{file}:0"]).params, bundle.params)
    twice, once = lora.merge_all(bundle, [file, f"{file}:-0.5"]), lora.merge_all(bundle, [f"{file}:0.5"])
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), twice.params, once.params)


def test_files_that_do_not_fit_are_refused(golden, tmp_path):
    bundle, file = golden_bundle(golden, "sd1"), tmp_path / "lora.safetensors"
    save_file({**named("kohya"), "lora_te2_text_model_encoder.lora_up.weight": np.zeros((2, 2), np.float32)}, file)
    with pytest.raises(
        UserError, match="is no LoRA of this model, as of another version of Stable Diffusion: 1 of its 7"
    ):
        lora.merged(bundle, file, 1.0)
    name = f"lora_unet_{UNET.replace('.', '_')}"
    wide = {
        f"{name}.lora_up.weight": np.zeros((64, 2), np.float32),
        f"{name}.lora_down.weight": np.zeros((2, 32), np.float32),
    }
    save_file(wide, file)
    with pytest.raises(UserError, match=r"it changes .*query/kernel of shape \(32, 32\) by one of shape \(32, 64\)"):
        lora.merged(bundle, file, 1.0)
    with pytest.raises(UserError, match="is added to a Stable Diffusion, and model 'tiny' is none"):
        lora.merged(tiny.bundle(), file, 1.0)
    with pytest.raises(UserError, match=r"'strong' is no weight; write FILE or FILE:0.8"):
        lora.merge_all(bundle, [f"{file}:strong"])
