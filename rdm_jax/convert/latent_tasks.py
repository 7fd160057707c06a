"""The released tasks of latent diffusion: how each is recognized, and what its program conditions and samples with.

The tasks are those of https://github.com/CompVis/latent-diffusion: class-conditional, text-to-image, layout-to-image,
semantic synthesis, super-resolution, inpainting, and unconditional models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from rdm_jax.convert import input_encoders
from rdm_jax.convert.mapping import shape_of
from rdm_jax.convert.settings import Settings
from rdm_jax.core.errors import UserError
from rdm_jax.core.nulls import NO_NULL

UNCONDITIONAL, FIRST_STAGE = "__is_unconditional__", "__is_first_stage__"  # of cond_stage_config
IMAGENET_CLASSES = 1000  # of a class embedding whose yaml gives no number, which has no null class
LAYOUT_CLASSES = 352  # by which a layout's flags are shifted; the names of the released model's data set
PATCHES = {"size": 128, "stride": 64}  # in which the program evaluates a super-resolution model on large images


@dataclasses.dataclass(frozen=True)
class Task:
    """What a checkpoint is conditioned on.

    Attributes:
      part: of the bundle, that holds the encoder; "" without one.
      encoder: its settings.
      conditioning: entries of the bundle's section "conditioning".
      sampling: the same of "sampling": what the program samples with by default.
      latents: the same of "latents".
    """

    part: str = ""
    encoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    conditioning: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    latents: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def conventions(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the sections of a bundle that depend on the task, from the settings that its yaml implies."""
        side = settings["sampling"]["height"]
        return {
            "latents": {**settings["latents"], **self.latents},
            "conditioning": {"neighbors": 0, "null": NO_NULL, **self.conditioning},
            "sampling": {
                "condition": "text",
                "sampler": "ddim",
                "guidance_scale": 1.0,
                "height": side,
                "width": side,
                **self.sampling,
            },
        }


def task_of(state: Mapping[str, np.ndarray], params: Mapping[str, Any], kl: bool, celeba: bool) -> Task | None:
    """Returns the task of a checkpoint; None for one of another program.

    Args:
      state: its tensors.
      params: the yaml's "model.params".
      kl: whether its first stage is a KL autoencoder.
      celeba: whether it was trained on CelebA-HQ.

    Raises:
      UserError: the condition's settings have values that no released model has.
    """
    if input_encoders.CLASSES in state:
        return _class(state, params)
    if input_encoders.TOKENS in state:
        return _layout(state) if not uses_tokenizer(params) else _text(state, kl)
    if input_encoders.LABELS in state:
        return _segmentation(state, params)
    condition = params.get("cond_stage_config")
    if condition == FIRST_STAGE:
        conditioning = {"input": "none", "channels": "latents+mask"}
        return Task(conditioning=conditioning, sampling={"steps": 50, "eta": 0.0})
    if condition == UNCONDITIONAL:
        steps, eta = (400, 0.0) if kl else (200, 0.0 if celeba else 1.0)
        return Task(conditioning={"input": "none"}, sampling={"steps": steps, "eta": eta})
    if isinstance(condition, Mapping) and _is_identity(condition) and _has_no_context(params):
        return Task(
            conditioning={"input": "low_resolution"},
            sampling={"steps": 100, "eta": 1.0},
            latents={"patches": PATCHES},
        )
    return None


def _class(state: Mapping[str, np.ndarray], params: Mapping[str, Any]) -> Task:
    """Returns the class-conditional task; where the yaml gives a number of classes, the last one is the null class."""
    rows, width = shape_of(state, input_encoders.CLASSES, 2, "class embedding")
    null = "n_classes" in _condition_params(params)
    if not null and rows != IMAGENET_CLASSES:
        raise UserError(
            f"the class embedding has {rows} rows, and the yaml gives no n_classes in cond_stage_config; take the yaml "
            "that came with the checkpoint"
        )
    encoder = {"kind": "class", "num_classes": rows - null, "width": width, "null_class": null}
    guided = {"steps": 20, "eta": 0.0, "guidance_scale": 3.0}
    return Task(
        "input_encoder",
        encoder,
        {"input": "class", **({"null": "zeros"} if null else {})},
        guided if null else {"steps": 200, "eta": 1.0},
    )


def _text(state: Mapping[str, np.ndarray], kl: bool) -> Task:
    encoder = {"kind": "bert", **input_encoders.token_states_config(state, "text encoder"), "pad_id": 0}
    # The larger model has a KL first stage, and its program guides; that of Conceptual Captions does not.
    sampling = {"steps": 200, "eta": 0.0, "guidance_scale": 5.0} if kl else {"steps": 100, "eta": 0.0}
    return Task("text_encoder", encoder, {"null": "zeros"}, sampling)


def _layout(state: Mapping[str, np.ndarray]) -> Task:
    encoder = {"kind": "tokens", **input_encoders.token_states_config(state, "layout encoder")}
    conditioning = {"input": "layout", "layout_names": "openimages", "layout_classes": LAYOUT_CLASSES}
    return Task("input_encoder", encoder, conditioning, {"steps": 200, "eta": 0.0})


def _segmentation(state: Mapping[str, np.ndarray], params: Mapping[str, Any]) -> Task:
    channels, labels, *_ = shape_of(state, input_encoders.LABELS, 4, "label encoder")
    own = Settings("cond_stage_config of the yaml", _condition_params(params), {"n_stages": 1})
    own.require({"method": "bilinear", "multiplier": 0.5, "bias": False})
    encoder = {"kind": "labels", "num_labels": labels, "channels": channels, "stages": own.whole("n_stages")}
    return Task("input_encoder", encoder, {"input": "segmentation"}, {"steps": 200, "eta": 0.0})


def _condition_params(params: Mapping[str, Any]) -> Mapping[str, Any]:
    condition = params.get("cond_stage_config")
    own = condition.get("params") if isinstance(condition, Mapping) else None
    return own if isinstance(own, Mapping) else {}


def uses_tokenizer(params: Mapping[str, Any]) -> bool:
    """Returns whether a transformer of tokens reads prompts, by a yaml's "model.params"."""
    return bool(_condition_params(params).get("use_tokenizer", True))


def _is_identity(condition: Mapping[str, Any]) -> bool:
    return str(condition.get("target", "")).endswith(".Identity")


def _has_no_context(params: Mapping[str, Any]) -> bool:
    unet = params.get("unet_config")
    own = unet.get("params") if isinstance(unet, Mapping) else None
    return isinstance(own, Mapping) and not own.get("context_dim")
