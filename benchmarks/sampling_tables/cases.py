"""What is compared with plain DDIM: samplers, guides and conditioners."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rdm_jax import conditioning, guidance
from rdm_jax.diffusion.samplers import SAMPLERS
from sampling_tables.job import Job

PLAIN = "ddim"


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to sample.

    Attributes:
      name: its row in the tables.
      options: of `Generator.plan`.
      networks: what a step evaluates beside the denoiser, names in `networks.OTHERS`.
      backward: whether a step computes a gradient through the denoiser.
    """

    name: str
    options: Mapping[str, Any]
    networks: tuple[str, ...] = ()
    backward: bool = False


def samplers(job: Job) -> Iterator[Case]:
    """Yields all samplers, plain DDIM first, DPM-Solver++ also with fewer steps, and DDIM without guidance."""
    yield Case(PLAIN, {})
    for name in SAMPLERS:
        if name != PLAIN:
            yield Case(name, {"sampler": name})
    yield Case("dpmpp_2m, fewer steps", {"sampler": "dpmpp_2m", "steps": max(1, 3 * job.steps // 10)})
    yield Case("ddim without guidance", {"guidance_scale": 1.0})


def guides(job: Job) -> Iterator[Case]:
    """Yields all guides on plain DDIM, and several at once."""
    image, mask = job.file("one"), job.file("left")
    config = job.generator.bundle.config
    classes, width = config["noised_classifier"]["classes"], config["sampling"]["width"]
    attribute = next(iter(classes))
    text = guidance.SDG(text="a red boat", weight=0.01)
    classifier = guidance.ClassifierGuidance(attribute=attribute, label=classes[attribute][0])
    inpaint = guidance.Inpaint(image=image, mask=mask)
    outpaint = guidance.Outpaint(image=job.file("part"), right=width - width // 2)
    several = [text, classifier, inpaint, guidance.DynamicThreshold()]
    with_maps = ("encoder, maps", "encoder, reference")
    guided: list[tuple[str, list[guidance.GuidanceMethod], tuple[str, ...]]] = [
        ("sdg, text", [text], ("encoder",)),
        ("sdg, content", [guidance.SDG(content=image, weight=0.01)], ("encoder", "encoder, reference")),
        ("sdg, structure", [guidance.SDG(structure=image, weight=0.01)], with_maps),
        ("sdg, style", [guidance.SDG(style=image, weight=0.01)], with_maps),
        ("classifier", [classifier], ("classifier",)),
        ("clip", [guidance.CLIPGuidance(text="neon", weight=0.01)], ("decoder", "clip")),
        ("ilvr", [guidance.ILVR(image=image)], ()),
        ("image_guidance", [guidance.ImageGuidance(image=image)], ()),
        ("inpaint", [inpaint], ()),
        ("project", [guidance.Project(image=image, mask=mask)], ()),
        ("paste", [guidance.Paste(image=image, mask=mask)], ()),
        ("outpaint", [outpaint], ()),
        ("threshold", [guidance.Threshold()], ()),
        ("dynamic_threshold", [guidance.DynamicThreshold()], ()),
        ("sdg + classifier + inpaint + threshold", several, ("encoder", "classifier")),
    ]
    for name, methods, networks in guided:
        yield Case(name, {"guides": methods}, networks, backward=name == "clip")


def conditions(job: Job) -> Iterator[Case]:
    """Yields all conditioners on plain DDIM, and the guidance rescale."""
    weights, cat = job.folder / "weights.json", "a blue cat"
    weights.write_text(json.dumps([1.0, 0.0]))
    conditioners: dict[str, conditioning.Conditioner] = {
        "also": conditioning.Also(prompt="a storm"),
        "negative": conditioning.Negative(prompt="a storm"),
        "interleave": conditioning.Interleave(),
        "weights": conditioning.Weights(of_query=2.0),
        "region": conditioning.Region(mask=job.file("left"), prompt=cat),
        "paint": conditioning.Paint(mask=job.file("left"), prompt=cat),
        "interpolate": conditioning.Interpolate(prompt=cat),
        "add": conditioning.Add(prompt=cat),
        "switch": conditioning.Switch(prompt=cat),
        "mix": conditioning.Mix(prompt=cat, weights=str(weights)),
    }
    for name, conditioner in conditioners.items():
        yield Case(name, {"conditions": [conditioner]})
    yield Case("guidance_rescale", {"guidance_rescale": 0.7})


CASES: Mapping[str, Callable[[Job], Iterator[Case]]] = {
    "samplers": samplers,
    "guides": guides,
    "conditions": conditions,
}
"""The tables of `costs`, by name."""
