"""Guides as they are asked for, by name and options: on the command line, in configs and in Python alike.

A kind is a small dataclass. Its options are fields; `inputs` turns them into arrays, once for a run; `bend` makes the
mathematics of `rdm_jax.guidance` from those arrays while a program is traced. What is in `inputs` may change without a
new program; what `static` names may not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.bundle import Bundle
from rdm_jax.core import images
from rdm_jax.core.calls import made, parse_call
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.diffusion.denoiser import Denoiser, Guide, StepHook
from rdm_jax.guidance.classifier import class_likelihood
from rdm_jax.guidance.clean_clip import clip_distance
from rdm_jax.guidance.gradient import Objective, gradient_guidance
from rdm_jax.guidance.ilvr import ilvr, low_pass
from rdm_jax.guidance.semantic import Reference, semantic
from rdm_jax.guidance.thresholding import dynamic_thresholding, static_thresholding
from rdm_jax.models.autoencoder import AutoencoderKL, split_moments
from rdm_jax.retrieval.encoder import ClipEncoder


@dataclasses.dataclass(frozen=True)
class Scene:
    """What guides are made for.

    Attributes:
      bundle: the model.
      encoder: its CLIP.
      latent: (h, w, c) of a picture's latent.
      timesteps: the length of the schedule.
    """

    bundle: Bundle
    encoder: ClipEncoder
    latent: tuple[int, int, int]
    timesteps: int

    def text(self, text: str) -> Float[np.ndarray, "1 d"]:
        """Returns a text's vector."""
        return self.encoder.encode_texts([text])

    def latent_of(self, file: str) -> Float[np.ndarray, "1 h w c"]:
        """Returns a picture as the network sees it, its shorter side resized and its centre cropped."""
        module: Any = self.bundle.autoencoder
        height, width = (side * module.downsampling for side in self.latent[:2])
        picture = images.resize_and_crop(read_picture(file), max(height, width))
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        pixels = images.to_float(picture[None, top : top + height, left : left + width])
        encoded = module.apply({"params": self.bundle.params["autoencoder"]}, jnp.asarray(pixels), method="encode")
        mean = split_moments(encoded)[0] if isinstance(module, AutoencoderKL) else encoded
        scaling = self.bundle.config["latents"]
        shift = np.asarray(scaling.get("shift", 0.0), np.float32).reshape(1, 1, 1, -1)
        return (np.asarray(mean) - shift) * np.float32(scaling["scale"])


@dataclasses.dataclass(frozen=True)
class Networks:
    """What guides ask.

    Attributes:
      bundle: the modules and their configuration.
      params: {part: parameters}, which may be traced.
      decode: latents to pictures in about [-1, 1].
    """

    bundle: Bundle
    params: Any
    decode: Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Bend:
    """What one guide does to a run: objectives share a gradient, guides wrap the denoiser, hooks follow the steps."""

    objectives: tuple[Objective, ...] = ()
    guides: tuple[Guide, ...] = ()
    hooks: tuple[StepHook, ...] = ()


@runtime_checkable
class Kind(Protocol):
    """A guide with its options."""

    needs: ClassVar[Mapping[str, str]]  # {part of the bundle: the config that trains it}
    source: ClassVar[str]

    @property
    def static(self) -> tuple[Any, ...]:
        """What a program is compiled for."""
        ...

    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns what changes from run to run, as arrays; raises UserError for options that cannot be."""
        ...

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns what the guide does, from parameters and inputs that are being traced."""
        ...


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Cuts x0 off at -bound and bound."""

    bound: float = 3.0
    needs: ClassVar[Mapping[str, str]] = {}
    source: ClassVar[str] = "arXiv 2205.11487, section 2.3 (static)"

    @property
    def static(self) -> tuple[Any, ...]:
        """Nothing."""
        return ()

    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns the bound."""
        return {"bound": np.float32(positive("bound", self.bound))}

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns the guide."""
        return Bend(guides=(static_thresholding(inputs["bound"]),))


@dataclasses.dataclass(frozen=True)
class DynamicThreshold:
    """Shrinks a picture's x0 whose quantile lies beyond the bound."""

    quantile: float = 0.995
    bound: float = 3.0
    needs: ClassVar[Mapping[str, str]] = {}
    source: ClassVar[str] = "arXiv 2205.11487, section 2.3 (dynamic)"

    @property
    def static(self) -> tuple[Any, ...]:
        """Nothing."""
        return ()

    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns quantile and bound."""
        if not 0 < self.quantile <= 1:
            raise UserError(f"quantile={self.quantile} is out of range; give a share above 0, up to 1")
        return {"quantile": np.float32(self.quantile), "bound": np.float32(positive("bound", self.bound))}

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns the guide."""
        return Bend(guides=(dynamic_thresholding(inputs["quantile"], inputs["bound"]),))


@dataclasses.dataclass(frozen=True)
class Ilvr:
    """Gives pictures the low frequencies of a reference: means over factor x factor latents, until a share of the
    time is left."""

    image: str = ""
    factor: float = 4
    until: float = 0.0
    needs: ClassVar[Mapping[str, str]] = {}
    source: ClassVar[str] = "arXiv 2108.02938, algorithm 1"

    @property
    def static(self) -> tuple[Any, ...]:
        """The factor."""
        return (int(self.factor),)

    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns the reference's latent and the time where conditioning ends."""
        reference = scene.latent_of(required("image", self.image, "a picture's file"))
        jax.eval_shape(lambda x: low_pass(x, int(self.factor)), reference)  # refuses a factor that does not fit
        return {"reference": reference, "until": np.float32(self.until * scene.timesteps - 0.5)}

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns the hook."""
        return Bend(hooks=(ilvr(inputs["reference"], int(self.factor), inputs["until"], noise),))


@dataclasses.dataclass(frozen=True)
class Clip:
    """Leads the clean estimate to a text, a picture, or both, by the model's own CLIP on random cutouts."""

    text: str = ""
    image: str = ""
    weight: float = 100.0
    cutouts: float = 8
    smoothness: float = 0.0
    needs: ClassVar[Mapping[str, str]] = {"clip": ""}
    source: ClassVar[str] = "arXiv 2209.13360 (MGAD)"

    @property
    def static(self) -> tuple[Any, ...]:
        """The number of cutouts."""
        return (int(self.cutouts),)

    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns the targets' vectors and the weights."""
        if not self.text and not self.image:
            raise UserError("guide clip leads nowhere; give it text='...' or image='FILE'")
        targets = [scene.text(self.text)] if self.text else []
        targets += [scene.encoder.encode_images([read_picture(self.image)])] if self.image else []
        shares = np.full((1, len(targets)), 1.0 / len(targets), np.float32)
        weights = {"weight": np.float32(self.weight), "smoothness": np.float32(self.smoothness)}
        return {"targets": np.stack(targets, axis=1), "shares": shares, **weights}

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns the objective."""
        clip: Any = networks.bundle.clip
        config = networks.bundle.config["clip"]
        mean, std = (jnp.asarray(config[name], jnp.float32).reshape(1, 1, 1, 3) for name in ("mean", "std"))

        def encode(pictures: Float[Array, "n s s 3"]) -> Float[Array, "n d"]:
            seen = ((pictures + 1.0) / 2.0 - mean) / std
            return clip.apply({"params": networks.params["clip"]}, seen, method="encode_image")

        objective = clip_distance(
            networks.decode,
            encode,
            inputs["targets"],
            inputs["shares"],
            inputs["weight"],
            size=int(clip.vision.image_size),
            cutouts=int(self.cutouts),
            smoothness=inputs["smoothness"],
        )
        return Bend(objectives=(objective,))


@dataclasses.dataclass(frozen=True)
class Sdg:
    """Semantic diffusion guidance: leads x_t to a text, or to a picture's content, structure or style."""

    text: str = ""
    content: str = ""
    structure: str = ""
    style: str = ""
    weight: float = 100.0
    needs: ClassVar[Mapping[str, str]] = {"noised_clip": "configs/noised_clip.py"}
    source: ClassVar[str] = "arXiv 2112.05744"

    @property
    def static(self) -> tuple[Any, ...]:
        """Nothing: which terms there are shows in the inputs."""
        return ()

    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns the text's vector, the references' latents and the weight."""
        pictures = {name: getattr(self, name) for name in ("content", "structure", "style") if getattr(self, name)}
        if not self.text and not pictures:
            raise UserError("guide sdg leads nowhere; give it text='...', or content, structure or style='FILE'")
        told: dict[str, Any] = {name: scene.latent_of(file) for name, file in pictures.items()}
        return told | ({"text": scene.text(self.text)} if self.text else {}) | {"weight": np.float32(self.weight)}

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns one objective for the text and for each reference."""
        weight = inputs["weight"]
        module: Any = networks.bundle.noised_clip

        def encode(x: Array, t: Array) -> tuple[Array, Sequence[Array]]:
            variables = {"params": networks.params["noised_clip"]}
            vector, seen = module.apply(variables, x, t, mutable=["intermediates"])
            levels = seen["intermediates"]
            return vector, [levels[f"level_{i}"][0] for i in range(len(levels))]

        found = [semantic(encode, inputs["text"], weight)] if "text" in inputs else []
        for name in ("content", "structure", "style"):
            if name in inputs:
                found.append(semantic(encode, reference=Reference(inputs[name], **{name: weight})))
        return Bend(objectives=tuple(found))


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Leads x_t to a class of an attribute, by a classifier of noisy latents."""

    attribute: str = ""
    label: str = ""
    weight: float = 1.0
    needs: ClassVar[Mapping[str, str]] = {"noised_classifier": "configs/noised_classifier.py"}
    source: ClassVar[str] = "arXiv 2105.05233, section 4"

    @property
    def static(self) -> tuple[Any, ...]:
        """The attribute."""
        return (self.attribute,)

    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns the class and the weight."""
        classes = scene.bundle.config["noised_classifier"]["classes"]
        if self.attribute not in classes:
            raise unknown("attribute", self.attribute, classes, hint="of guide classifier")
        if self.label not in classes[self.attribute]:
            raise unknown(self.attribute, self.label, classes[self.attribute], hint="of guide classifier")
        return {
            "class": np.array([classes[self.attribute].index(self.label)], np.int32),
            "weight": np.float32(self.weight),
        }

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns the objective."""
        module: Any = networks.bundle.noised_classifier
        classes = networks.bundle.config["noised_classifier"]["classes"]
        ends = np.cumsum([len(names) for names in classes.values()])[:-1].tolist()

        def classify(x: Array, t: Array) -> dict[str, Array]:
            logits = module.apply({"params": networks.params["noised_classifier"]}, x, t)
            return dict(zip(classes, jnp.split(logits, ends, axis=1), strict=True))

        wanted = {self.attribute: jnp.broadcast_to(inputs["class"], noise.shape[:1])}
        return Bend(objectives=(class_likelihood(classify, wanted, inputs["weight"]),))


KINDS: dict[str, type] = {
    "sdg": Sdg,
    "classifier": Classifier,
    "clip": Clip,
    "ilvr": Ilvr,
    "threshold": Threshold,
    "dynamic_threshold": DynamicThreshold,
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A guide of a run: its kind with its options, and their arrays."""

    text: str
    kind: Any
    inputs: dict[str, Any]

    @property
    def form(self) -> tuple[Any, ...]:
        """What a program is compiled for."""
        leaves, structure = jax.tree.flatten(self.inputs)
        return type(self.kind), self.kind.static, structure, tuple(np.shape(leaf) for leaf in leaves)


def open_guides(texts: Sequence[str], scene: Scene) -> tuple[Asked, ...]:
    """Returns the guides that texts such as "sdg(text='a boat', weight=120)" ask for.

    Raises:
      UserError: a name or an option is unknown, the model lacks a network, or a value or a file cannot be.
    """
    found = []
    for text in texts:
        kind = made(KINDS, parse_call(text, "guide"), "guide")
        for part, config in kind.needs.items():
            if not scene.bundle.has(part):
                raise UserError(
                    f"guide {text!r} needs the model's {part}, and {scene.bundle.name!r} has none; train it by "
                    f"`rdm train --config {config} --config.base=MODEL` and `rdm export`"
                )
        found.append(Asked(text, kind, kind.inputs(scene)))
    return tuple(found)


def parts_of(asked: Sequence[Asked]) -> tuple[str, ...]:
    """Returns the parts of the bundle that guides read, beside the U-Net."""
    parts = {part for one in asked for part in one.kind.needs}
    return tuple(sorted(parts | ({"autoencoder"} if "clip" in parts else set())))


def bent(
    denoiser: Denoiser,
    asked: Sequence[Asked],
    networks: Networks,
    inputs: Sequence[dict[str, Any]],
    noise: Float[Array, "b h w c"],
) -> tuple[Denoiser, tuple[StepHook, ...]]:
    """Returns a denoiser under all guides, and the hooks: gradients first and together, then the others in order."""
    bends = [one.kind.bend(networks, given, noise) for one, given in zip(asked, inputs, strict=True)]
    objectives = [objective for bend in bends for objective in bend.objectives]
    if objectives:
        denoiser = gradient_guidance(objectives)(denoiser)
    for bend in bends:
        for guide in bend.guides:
            denoiser = guide(denoiser)
    return denoiser, tuple(hook for bend in bends for hook in bend.hooks)


def listed() -> str:
    """Returns what guides there are, with their options and sources, as text."""
    lines = []
    for name, kind in KINDS.items():
        options = ", ".join(f"{field.name}={field.default!r}" for field in dataclasses.fields(kind))
        needs = "".join(f"; needs {part}" for part, config in kind.needs.items() if config)
        lines += [f"{name}({options})", f"    {' '.join((kind.__doc__ or '').split())} [{kind.source}{needs}]"]
    return "\n".join(lines)


def read_picture(file: str) -> np.ndarray:
    """Returns a picture's pixels; raises UserError where the file is none."""
    try:
        return images.decode(Path(file).expanduser().read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file} as a picture: {error}") from error


def positive(name: str, value: float) -> float:
    """Returns the value; raises UserError unless it is above 0 and finite."""
    if not 0 < value < float("inf"):
        raise UserError(f"{name}={value} is out of range; give a number above 0")
    return value


def required(name: str, value: str, what: str) -> str:
    """Returns the value; raises UserError if it is empty."""
    if not value:
        raise UserError(f"a guide lacks {name}; give it {what}, {name}='...'")
    return value
