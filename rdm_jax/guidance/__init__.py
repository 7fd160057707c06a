"""Guidance: one file for each method, with its mathematics and its options.

    from rdm_jax.guidance import SDG, Inpaint
    generator.sample("a red boat", database="general", guides=[SDG(text="neon", weight=300)])

A new method is a new file and one line in `GUIDES`.
"""

from __future__ import annotations

from collections.abc import Sequence

from rdm_jax.core.calls import describe, format_call
from rdm_jax.core.errors import UserError
from rdm_jax.guidance.base import BoundGuide as BoundGuide
from rdm_jax.guidance.base import GuidanceMethod as GuidanceMethod
from rdm_jax.guidance.base import GuideContext as GuideContext
from rdm_jax.guidance.base import Networks as Networks
from rdm_jax.guidance.base import apply_guides as apply_guides
from rdm_jax.guidance.base import parts_of as parts_of
from rdm_jax.guidance.classifier import ClassifierGuidance as ClassifierGuidance
from rdm_jax.guidance.clip import CLIPGuidance as CLIPGuidance
from rdm_jax.guidance.ilvr import ILVR as ILVR
from rdm_jax.guidance.image_guidance import ImageGuidance as ImageGuidance
from rdm_jax.guidance.inpaint import Inpaint as Inpaint
from rdm_jax.guidance.outpaint import Outpaint as Outpaint
from rdm_jax.guidance.paste import Paste as Paste
from rdm_jax.guidance.project import Project as Project
from rdm_jax.guidance.semantic import SDG as SDG
from rdm_jax.guidance.threshold import DynamicThreshold as DynamicThreshold
from rdm_jax.guidance.threshold import Threshold as Threshold

GUIDES: dict[str, type[GuidanceMethod]] = {
    "sdg": SDG,
    "classifier": ClassifierGuidance,
    "clip": CLIPGuidance,
    "ilvr": ILVR,
    "image_guidance": ImageGuidance,
    "inpaint": Inpaint,
    "outpaint": Outpaint,
    "paste": Paste,
    "project": Project,
    "threshold": Threshold,
    "dynamic_threshold": DynamicThreshold,
}


def bind_guides(methods: Sequence[GuidanceMethod], context: GuideContext) -> tuple[BoundGuide, ...]:
    """Returns the guides of a run: reads their files and encodes their texts.

    Args:
      methods: with their options; `core.calls.parse(GUIDES, text, "guide")` makes one from text.
      context: the model.

    Raises:
      UserError: the model lacks a network, a network takes latents of another size, an option is out of range, or a
        file cannot be read.
    """
    guides = []
    for method in methods:
        text = format_call(GUIDES, method)
        for part, config in method.needs.items():
            if not context.bundle.has(part):
                raise UserError(
                    f"guide {text!r} needs the model's {part}, and {context.bundle.name!r} has none; train it by "
                    f"`rdm train --config {config} --config.base=MODEL` and `rdm export`, or convert an ADM or GLIDE "
                    "with its own"
                )
            if config:
                _check_size(text, part, context)
        guides.append(BoundGuide(text, method, method.inputs(context)))
    return tuple(guides)


def _check_size(text: str, part: str, context: GuideContext) -> None:
    """Raises UserError if a network of noisy latents was trained on latents of another size than the run's."""
    side = int(getattr(context.bundle, part).latent_size)
    if context.latent[:2] != (side, side):
        height, width = context.size
        pixels = side * height // context.latent[0]
        raise UserError(
            f"height {height}, width {width}: guide {text!r} is for images of {pixels}x{pixels} only, as the model's "
            f"{part} has learned positions; use this size, or omit the guide"
        )


def describe_guides() -> str:
    """Returns a text about all guides: options, purpose, source, and the parts of the model that they need."""
    needs = {
        name: "".join(f"; needs {part}" for part, config in method.needs.items() if config)
        for name, method in GUIDES.items()
    }
    return "\n".join(describe(name, method, method.source + needs[name]) for name, method in GUIDES.items())
