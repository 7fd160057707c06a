"""CLIP against transformers' and OpenAI's outputs, with their weights converted."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from rdm_jax.convert.clip import clip_params, config_from_hugging_face, config_from_openai
from rdm_jax.convert.torch_file import read_state_dict
from rdm_jax.core.errors import UserError
from rdm_jax.models import build_clip


def _check(clip, params, data, nhwc, close):
    images, texts, scale = jax.jit(clip.apply)(
        {"params": params}, nhwc(data["pixel_values"]), jnp.asarray(data["input_ids"], jnp.int32)
    )
    close(images, data["image_features"])
    close(texts, data["text_features"])
    return images, texts, scale


def test_hugging_face_clip_computes_what_transformers_does(golden, nhwc, close):
    config = config_from_hugging_face(json.loads((golden / "clip/hf_clip/config.json").read_text()))
    state, data = load_file(golden / "clip/hf_clip/model.safetensors"), np.load(golden / "clip/hf_clip.npz")
    clip = build_clip(config)
    assert config["text"]["eos_id"] == 999
    images, texts, scale = _check(clip, clip_params(state, clip), data, nhwc, close)
    images, texts = (e / jnp.linalg.norm(e, axis=1, keepdims=True) for e in (images, texts))
    close(images, data["image_embeds"])
    close(texts, data["text_embeds"])
    close(scale * images @ texts.T, data["logits_per_image"])


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_openai_clip_computes_what_the_original_does(golden, nhwc, close, kind):
    state, data = read_state_dict(golden / f"clip/openai_{kind}.pt"), np.load(golden / f"clip/openai_{kind}.npz")
    clip = build_clip(config_from_openai(state))
    _check(clip, clip_params(state, clip), data, nhwc, close)


def test_a_hugging_face_eos_of_two_means_the_highest_id(golden):
    config = json.loads((golden / "clip/hf_clip/config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    assert config_from_hugging_face(config)["text"]["eos_id"] is None


def test_wrong_names_are_listed_together(golden):
    state = dict(read_state_dict(golden / "clip/openai_vit.pt"))
    clip = build_clip(config_from_openai(state))
    del state["visual.proj"]
    state["visual.stranger"] = np.zeros(1, np.float32)
    with pytest.raises(UserError, match=r"1 missing: visual\.proj; 1 unexpected: visual\.stranger"):
        clip_params(state, clip)


def test_only_a_clip_is_taken():
    with pytest.raises(UserError, match="'bert', not a CLIP"):
        config_from_hugging_face({"model_type": "bert"})
    with pytest.raises(UserError, match="not in OpenAI's CLIP layout"):
        config_from_openai({})
