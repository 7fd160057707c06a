"""Guides as they are asked for, by name and options: on the command line, in configs and in Python alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.core.calls import described, made, parse_call
from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import Denoiser, StepHook
from rdm_jax.guidance.gradient import gradient_guidance
from rdm_jax.guides.base import Bend, Kind, Networks, PerImage, Scene
from rdm_jax.guides.classifier import Classifier
from rdm_jax.guides.clip import Clip
from rdm_jax.guides.ilvr import Ilvr
from rdm_jax.guides.known import Inpaint, Outpaint, Project
from rdm_jax.guides.sdg import Sdg
from rdm_jax.guides.thresholds import DynamicThreshold, Threshold

__all__ = ["KINDS", "Asked", "Networks", "Scene", "bent", "listed", "open_guides", "parts_of"]

KINDS: dict[str, type[Kind]] = {
    "sdg": Sdg,
    "classifier": Classifier,
    "clip": Clip,
    "ilvr": Ilvr,
    "inpaint": Inpaint,
    "outpaint": Outpaint,
    "project": Project,
    "threshold": Threshold,
    "dynamic_threshold": DynamicThreshold,
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A guide of a run: its kind with its options, and their arrays."""

    text: str
    kind: Kind
    inputs: dict[str, Any]

    @property
    def form(self) -> tuple[Any, ...]:
        """What a program is compiled for."""
        leaves, structure = jax.tree.flatten(self.of([0]))
        return type(self.kind), self.kind.static, structure, tuple(np.shape(leaf) for leaf in leaves)

    def shardings(self, batch: Any, whole: Any) -> dict[str, Any]:
        """Returns where each input lies: one of an image's own with the image, the others everywhere."""
        return {name: batch if isinstance(value, PerImage) else whole for name, value in self.inputs.items()}

    def of(self, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Returns the inputs for some images of the run."""
        return {
            name: value.of(indices) if isinstance(value, PerImage) else value for name, value in self.inputs.items()
        }


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
    return tuple(sorted({part for one in asked for part in one.kind.needs}))


def bent(
    denoiser: Denoiser,
    asked: Sequence[Asked],
    networks: Networks,
    inputs: Sequence[dict[str, Any]],
    noise: Float[Array, "b h w c"],
) -> tuple[Denoiser, tuple[StepHook, ...]]:
    """Returns a denoiser under all guides, and the hooks: gradients first and together, then the others in order."""
    kinds = dict.fromkeys(type(one.kind) for one in asked)
    members = {
        kind: [(one.kind, given) for one, given in zip(asked, inputs, strict=True) if type(one.kind) is kind]
        for kind in kinds
    }
    bend = sum((kind.bend_all(networks, several, noise) for kind, several in members.items()), Bend())
    if bend.objectives:
        denoiser = gradient_guidance(bend.objectives)(denoiser)
    for guide in bend.guides:
        denoiser = guide(denoiser)
    return denoiser, bend.hooks


def listed() -> str:
    """Returns what guides there are, with their options and sources, as text."""
    needs = {
        name: "".join(f"; needs {part}" for part, config in kind.needs.items() if config)
        for name, kind in KINDS.items()
    }
    return "\n".join(described(name, kind, kind.source + needs[name]) for name, kind in KINDS.items())
