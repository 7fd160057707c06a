"""Networks in Flax linen, one per file, images in NHWC; they depend on no noise schedule, database or training code.

Every network is built from a flat configuration of plain values: a model on disk is a JSON file and weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.models.amused import AmusedUViT
from rdm_jax.models.autoencoder import AutoencoderKL
from rdm_jax.models.backbone import Backbone
from rdm_jax.models.clip import CLIP, ModifiedResNet, TextStates, TextTransformer, ViT
from rdm_jax.models.dit import DiT
from rdm_jax.models.encoder_tokens import EncoderTokens
from rdm_jax.models.fine_transformer import FineTransformer
from rdm_jax.models.image_adapter import FeatureProjection, PatchProjection, PatchResampler, VectorProjection
from rdm_jax.models.inception import InceptionV3
from rdm_jax.models.label_encoders import ClassToken, LabelMap
from rdm_jax.models.lpips import LPIPS
from rdm_jax.models.multi_scale_vq import MultiScaleVQ
from rdm_jax.models.noised_clip import NoisedCLIP
from rdm_jax.models.noised_encoder import NoisedEncoder
from rdm_jax.models.padded_text import PaddedText
from rdm_jax.models.patch_encoder import PatchEncoder
from rdm_jax.models.pixels import Pixels
from rdm_jax.models.pooled_text import PooledText, ProjectedText
from rdm_jax.models.prior import Prior
from rdm_jax.models.pyunet import PyUNet
from rdm_jax.models.shapes import abstract_params as abstract_params
from rdm_jax.models.style_encoder import StyleEncoder
from rdm_jax.models.time_mix_transformer import TimeMixTransformer
from rdm_jax.models.token_states import TokenStates
from rdm_jax.models.token_transformer import TokenTransformer
from rdm_jax.models.translator import Translator
from rdm_jax.models.unet import UNet
from rdm_jax.models.unet_pair import UNetPair
from rdm_jax.models.uvit import UViT
from rdm_jax.models.vector_context import VectorContext
from rdm_jax.models.vit_vq import ViTVQ
from rdm_jax.models.vq import AutoencoderVQ
from rdm_jax.models.word_table import WordTable

BACKBONES: Mapping[str, type[Backbone]] = {
    "unet": UNet,
    "unet_pair": UNetPair,
    "dit": DiT,
    "uvit": UViT,
    "pyunet": PyUNet,
}
"""The denoisers by name; each is a linen module with the protocol of `models.backbone.Backbone`. See docs/heads.md."""
SIZES = ("in_channels", "out_channels", "context_dim", "latent_size")
"""Fields of backbones that follow from the latents and the context."""
AUTOENCODERS = {
    "kl": AutoencoderKL,
    "vq": AutoencoderVQ,
    "vit_vq": ViTVQ,
    "multi_scale_vq": MultiScaleVQ,
    "pixels": Pixels,
}
"""First stages by name."""
CODES = ("vq", "vit_vq")
"""The first stages, of `AUTOENCODERS`, whose codes a transformer predicts."""
IMAGE_TOWERS = {"vit": ViT, "resnet": ModifiedResNet}
TEXT_TOWERS = {"transformer": TextTransformer, "table": WordTable}
TEXT_ENCODERS = {
    "clip": TextStates,
    "bert": TokenStates,
    "padded": PaddedText,
    "pooled_clip": PooledText,
    "projected_clip": ProjectedText,
}
"""Encoders of a text as a sequence of tokens, by name."""
TextEncoder = TextStates | TokenStates | PaddedText | PooledText | ProjectedText
INPUT_ENCODERS = {"class": ClassToken, "tokens": TokenStates, "labels": LabelMap}
"""Encoders of inputs other than texts (`conditioning.inputs`), by name."""
NOISED_ENCODERS = {"convolutional": NoisedEncoder, "clip": NoisedCLIP}
"""Encoders of noisy images or latents, by name."""
TRANSFORMERS = {"tokens": TokenTransformer, "amused": AmusedUViT, "time_mix": TimeMixTransformer}
"""Networks from codes to the logits of codes, by name."""
TRANSFORMER = "tokens"
"""The kind of a configuration that names none."""
ImageAdapter = VectorProjection | PatchResampler | PatchProjection | FeatureProjection
IMAGE_ADAPTERS: Mapping[str, type[ImageAdapter]] = {
    "vector": VectorProjection,
    "patches": PatchResampler,
    "all_patches": PatchProjection,
    "features": FeatureProjection,
}
"""What makes tokens of images for the attention of an adapter, by name."""
STYLE_ENCODERS = {"convolutional": StyleEncoder, "patches": PatchEncoder}
STYLE_ENCODER = "convolutional"
"""The kind of a configuration that names none."""


def build_denoiser(config: Mapping[str, Any]) -> Any:
    """Returns the denoiser of a configuration: "kind", a name in `BACKBONES`, and the fields of its class.

    Raises:
      UserError: the kind or a key is unknown, or a required key is missing.
    """
    cls, fields = _by_kind("denoiser", BACKBONES, config)
    return _construct(f"denoiser {config['kind']}", cls, fields)


def with_sizes(config: Mapping[str, Any], **sizes: Any) -> dict[str, Any]:
    """Returns a denoiser's configuration with the sizes that follow from its data, those that its class has.

    Args:
      config: "kind", a name in `BACKBONES`, and fields of its class.
      sizes: fields of any backbone: `in_channels`, `out_channels`, `context_dim`, `latent_size`, ...; channels are
        those of whole latents.

    Raises:
      UserError: the kind is unknown.
    """
    cls, _ = _by_kind("denoiser", BACKBONES, config)
    names = {field.name for field in dataclasses.fields(cls)}
    sizes |= {name: sizes[name] // cls.stages for name in ("in_channels", "out_channels") if name in sizes}
    return {**config, **{name: size for name, size in sizes.items() if name in names}}


def other_backbone(found: Iterable[str], wanted: Iterable[str]) -> tuple[str, str] | None:
    """Returns the backbones that two sets of parameters belong to, if they are two; otherwise None.

    Args:
      found: the paths of parameters, "a/b/kernel".
      wanted: the paths of the parameters that there should be.
    """
    roots = [{path.partition("/")[0] for path in paths} for paths in (found, wanted)]
    kinds = [next((kind for kind, cls in BACKBONES.items() if cls.hallmark in names), None) for names in roots]
    return (kinds[0], kinds[1]) if kinds[0] and kinds[1] and kinds[0] != kinds[1] else None


def build_autoencoder(config: Mapping[str, Any]) -> Any:
    """Returns the first stage of a configuration: "kind", a name in `AUTOENCODERS`, and the fields of its class.

    Raises:
      UserError: the kind or a key is unknown, or a required key is missing.
    """
    cls, fields = _by_kind("autoencoder", AUTOENCODERS, config)
    return _construct("autoencoder", cls, fields)


def build_style_encoder(config: Mapping[str, Any]) -> StyleEncoder | PatchEncoder:
    """Returns the encoder of style neighbors of a configuration.

    Its keys are "kind", a name in `STYLE_ENCODERS` (`STYLE_ENCODER` if there is none), and the fields of its class.

    Raises:
      UserError: the kind or a key is unknown, or a required key is missing.
    """
    cls, fields = _by_kind("style encoder", STYLE_ENCODERS, {"kind": STYLE_ENCODER, **config})
    return _construct("style encoder", cls, fields)


def build_input_encoder(config: Mapping[str, Any]) -> ClassToken | TokenStates | LabelMap:
    """Returns the encoder of an input: "kind", a name in `INPUT_ENCODERS`, and the fields of its class.

    Raises:
      UserError: the kind or a key is unknown, or a required key is missing.
    """
    cls, fields = _by_kind("input encoder", INPUT_ENCODERS, config)
    return _construct("input encoder", cls, fields)


def build_text_encoder(config: Mapping[str, Any]) -> TextEncoder:
    """Returns the encoder of texts as sequences: "kind", a name in `TEXT_ENCODERS`, and the fields of its class.

    Raises:
      UserError: the kind or a key is unknown, or a required key is missing.
    """
    cls, fields = _by_kind("text encoder", TEXT_ENCODERS, config)
    return _construct("text encoder", cls, fields)


def build_image_adapter(config: Mapping[str, Any]) -> ImageAdapter:
    """Returns what makes tokens of images: "kind", a name in `IMAGE_ADAPTERS`, and the fields of its class.

    Raises:
      UserError: the kind or a key is unknown, or a required key is missing.
    """
    cls, fields = _by_kind("image adapter", IMAGE_ADAPTERS, config)
    return _construct("image adapter", cls, fields)


def build_transformer(config: Mapping[str, Any]) -> Any:
    """Returns the network over codes of a configuration.

    Its keys are "kind", a name in `TRANSFORMERS` (`TRANSFORMER` if there is none), and the fields of its class.

    Raises:
      UserError: the kind or a key is unknown, or a required key is missing.
    """
    cls, fields = _by_kind("transformer", TRANSFORMERS, {"kind": TRANSFORMER, **config})
    return _construct("transformer", cls, fields)


def build_fine_transformer(config: Mapping[str, Any]) -> FineTransformer:
    """Returns the second stage of masked codes of a configuration, whose keys are the fields of `FineTransformer`.

    Raises:
      UserError: a key is unknown, or a required key is missing.
    """
    return _construct("fine transformer", FineTransformer, config)


def build_clip(config: Mapping[str, Any]) -> CLIP:
    """Returns the CLIP of a configuration: "embed_dim", "vision" and "text".

    "vision" has "kind" ("vit" or "resnet") and the fields of its class, "text" has "kind" ("transformer", which is the
    default, or "table") and the fields of its class; neither repeats "embed_dim". "dtype" at the top, if any, holds for
    both towers.

    Raises:
      UserError: the kind or a key is unknown, or a required key is missing.
    """
    allowed = ("embed_dim", "vision", "text", "dtype")
    _check_keys("clip", config, allowed, ("embed_dim", "vision", "text"))
    shared = {key: config[key] for key in ("embed_dim", "dtype") if key in config}
    image_tower, vision = _by_kind("clip vision", IMAGE_TOWERS, config["vision"])
    text_tower, text = _by_kind("clip text", TEXT_TOWERS, {"kind": "transformer", **config["text"]})
    return CLIP(
        vision=_construct("clip vision", image_tower, {**shared, **vision}),
        text=_construct("clip text", text_tower, {**shared, **text}),
    )


def build_noised_encoder(config: Mapping[str, Any]) -> NoisedEncoder | NoisedCLIP:
    """Returns the encoder of noisy latents of a configuration.

    Its keys are "kind", a name in `NOISED_ENCODERS` ("convolutional" if there is none), and the fields of its class.
    That of a classifier also has "classes", {attribute: names}, one logit for each name.

    Raises:
      UserError: the kind or a key is unknown, or a required key is missing.
    """
    own = {key: config[key] for key in config if key != "classes"}
    cls, fields = _by_kind("noised encoder", NOISED_ENCODERS, {"kind": "convolutional", **own})
    return _construct("noised encoder", cls, fields)


def build_prior(config: Mapping[str, Any]) -> Prior:
    """Returns the diffusion prior of a configuration, whose keys are the fields of `Prior`.

    Raises:
      UserError: a key is unknown, or a required key is missing.
    """
    return _construct("prior", Prior, config)


def build_encoder_tokens(config: Mapping[str, Any]) -> EncoderTokens:
    """Returns what makes tokens of several encoders' outputs, whose keys are the fields of `EncoderTokens`.

    Raises:
      UserError: a key is unknown, or a required key is missing.
    """
    return _construct("encoder tokens", EncoderTokens, config)


def build_translator(config: Mapping[str, Any]) -> Translator:
    """Returns the translator of a configuration, whose keys are the fields of `Translator`.

    Raises:
      UserError: a key is unknown, or a required key is missing.
    """
    return _construct("translator", Translator, config)


def build_vector_context(config: Mapping[str, Any]) -> VectorContext:
    """Returns what makes a decoder's condition of a vector, whose keys are the fields of `VectorContext`.

    Raises:
      UserError: a key is unknown, or a required key is missing.
    """
    return _construct("vector context", VectorContext, config)


def build_lpips(config: Mapping[str, Any]) -> LPIPS:
    """Returns the network of the perceptual distance; its configuration has no keys.

    Raises:
      UserError: there is a key.
    """
    return _construct("lpips", LPIPS, config)


def build_inception(config: Mapping[str, Any]) -> InceptionV3:
    """Returns the Inception-v3 of a configuration, whose keys are the fields of `InceptionV3`.

    Raises:
      UserError: a key is unknown.
    """
    return _construct("inception", InceptionV3, config)


def _by_kind(what: str, kinds: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    fields = dict(config)
    kind = fields.pop("kind", None)
    if kind not in kinds:
        raise unknown(f"{what} kind", str(kind), kinds)
    return kinds[kind], fields


def _construct(what: str, cls: Any, config: Mapping[str, Any]) -> Any:
    fields = [field for field in dataclasses.fields(cls) if field.name not in ("parent", "name")]
    required = [f.name for f in fields if f.default is dataclasses.MISSING]
    _check_keys(what, config, [f.name for f in fields], required)
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in config.items()})


def _check_keys(what: str, config: Mapping[str, Any], allowed: Any, required: Any) -> None:
    for key in config:
        if key not in allowed:
            raise unknown(f"{what} setting", key, allowed)
    missing = [key for key in required if key not in config]
    if missing:
        raise UserError(f"the {what} configuration lacks {', '.join(missing)}; add them")
