"""The ways to draw that are compared with plain DDIM: samplers, guides and conditions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from draws.job import Job
from rdm_jax.diffusion.samplers import SAMPLERS

PLAIN = "ddim"


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to draw.

    Attributes:
      name: what the tables call it.
      options: of `Generator.plan`.
      reads: the networks that a step asks beside the U-Net, names in `networks.OTHERS`.
      through: whether a gradient goes through the U-Net.
    """

    name: str
    options: Mapping[str, Any]
    reads: tuple[str, ...] = ()
    through: bool = False


def samplers(job: Job) -> Iterator[Case]:
    """Yields every sampler, plain DDIM first; of DPM-Solver++ also the number of steps that it is used with."""
    yield Case(PLAIN, {})
    for name in SAMPLERS:
        if name != PLAIN:
            yield Case(name, {"sampler": name})
    yield Case("dpmpp_2m, fewer steps", {"sampler": "dpmpp_2m", "steps": max(1, 3 * job.steps // 10)})
    yield Case("ddim without guidance", {"guidance_scale": 1.0})


def guides(job: Job) -> Iterator[Case]:
    """Yields every guide on plain DDIM, and several at once."""
    one, left = job.file("one"), job.file("left")
    config = job.generator.bundle.config
    classes, width = config["noised_classifier"]["classes"], config["sampling"]["width"]
    attribute = next(iter(classes))
    text = "sdg(text='a red boat', weight=0.01)"
    chosen = f"classifier(attribute='{attribute}', label='{classes[attribute][0]}')"
    kept = f"inpaint(image='{one}', mask='{left}')"
    told = {
        "sdg, text": (text, ("tower",)),
        "sdg, content": (f"sdg(content='{one}', weight=0.01)", ("tower", "tower, reference")),
        "sdg, structure": (f"sdg(structure='{one}', weight=0.01)", ("tower, maps", "tower, reference")),
        "sdg, style": (f"sdg(style='{one}', weight=0.01)", ("tower, maps", "tower, reference")),
        "classifier": (chosen, ("classifier",)),
        "clip": ("clip(text='neon', weight=0.01)", ("decoder", "clip")),
        "ilvr": (f"ilvr(image='{one}')", ()),
        "inpaint": (kept, ()),
        "project": (f"project(image='{one}', mask='{left}')", ()),
        "outpaint": (f"outpaint(image='{job.file('part')}', right={width - width // 2})", ()),
        "threshold": ("threshold()", ()),
        "dynamic_threshold": ("dynamic_threshold()", ()),
    }
    for name, (guide, reads) in told.items():
        yield Case(name, {"guides": [guide]}, reads, through=name == "clip")
    several = [text, chosen, kept, "dynamic_threshold()"]
    yield Case("sdg + classifier + inpaint + threshold", {"guides": several}, ("tower", "classifier"))


def conditions(job: Job) -> Iterator[Case]:
    """Yields every condition on plain DDIM."""
    weights = Path(job.folder) / "weights.json"
    weights.write_text(json.dumps([1.0, 0.0]))
    told = {
        "also": "also(prompt='a storm')",
        "negative": "negative(prompt='a storm')",
        "interleave": "interleave()",
        "weights": "weights(of_query=2)",
        "region": f"region(mask='{job.file('left')}', prompt='a blue cat')",
        "interpolate": "interpolate(prompt='a blue cat')",
        "add": "add(prompt='a blue cat')",
        "switch": "switch(prompt='a blue cat')",
        "mix": f"mix(prompt='a blue cat', weights='{weights}')",
    }
    for name, condition in told.items():
        yield Case(name, {"conditions": [condition]})
    yield Case("guidance_rescale", {"guidance_rescale": 0.7})


KINDS = {"samplers": samplers, "guides": guides, "conditions": conditions}
