"""The bench that guidance is measured on: a model, a classifier, references, and the amount of images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from rdm_jax.core.images import encode
from rdm_jax.evaluation.classifiers import AttributeClassifier
from rdm_jax.evaluation.gallery import Gallery, Target, choose_targets, open_gallery
from rdm_jax.evaluation.measures import ImageMetrics
from rdm_jax.evaluation.methods import FREE, Case, Method
from rdm_jax.generator import Generator
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.retriever import Retriever

SAMPLER = "ddim(spacing='compvis')"  # whatever the spacing of the model
FIRST_SEED = 1_000


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The amount of images.

    Attributes:
      targets: references and prompts.
      images: of each target.
      others: distractors in the gallery.
      steps: of the sampler.
      ascent: steps of CLIP alone.
      few_steps: of the short run of DPM-Solver++.
      reference_steps: of the long run of DDIM that it is compared with.
      sweep: whether all weights are measured, otherwise those of the tables alone.
    """

    targets: int = 24
    images: int = 4
    others: int = 1_000
    steps: int = 20
    ascent: int = 40
    few_steps: int = 15
    reference_steps: int = 100
    sweep: bool = True


QUICK = Sizes(targets=4, images=2, others=100, steps=5, ascent=5, few_steps=5, reference_steps=10, sweep=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """A model with references, a gallery and metrics.

    Attributes:
      generator: the model.
      retriever: over the databases of the neighbors.
      metrics: classifier, CLIP and gallery.
      rest: real images outside of the gallery.
      sizes: the amount of images.
      mask: a file, white in the region that inpainting generates: the right half.
      seed: the base of all seeds.
    """

    generator: Generator
    retriever: Retriever
    metrics: ImageMetrics
    rest: Gallery
    sizes: Sizes
    mask: Path
    seed: int = 0

    @property
    def targets(self) -> list[Target]:
        """What guidance aims at."""
        return list(self.metrics.targets)

    @property
    def kept(self) -> Bool[np.ndarray, "h w"]:
        """The region that inpainting keeps."""
        height, width = self.targets[0].image.shape[:2]
        return np.broadcast_to(np.arange(width)[None] < width // 2, (height, width))

    def options(self, target: Target, base: str) -> dict[str, Any]:
        """Returns the options of a target's images on a base; the noise is the same on every base."""
        return {
            "database": self.retriever,
            "num_images": self.sizes.images,
            "batch_size": self.sizes.images,
            "steps": self.sizes.steps,
            "sampler": SAMPLER,
            "seed": self.seed + FIRST_SEED + target.number,
            # The null condition alone: the paper guides an unconditional model.
            **({"guidance_scale": 0.0} if base == FREE else {}),
        }

    def generate(
        self, prompt: Callable[[Target], str], base: str, progress: Callable[[int], None], **more: Any
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns the images of all targets.

        Args:
          prompt: of a target.
          base: what is guided.
          progress: called with the number of images done.
          **more: options of `Generator.plan`; a function gives each target its own.
        """
        images = []
        for done, target in enumerate(self.targets, 1):
            own = {name: value(target) if callable(value) else value for name, value in more.items()}
            result = self.generator.sample(prompt(target), **{**self.options(target, base), **own})
            images.append(result.images)
            progress(done * self.sizes.images)
        return np.concatenate(images)

    def options_of(self, method: Method, weight: float, learned: Path) -> dict[str, Any]:
        """Returns the options of a method for `generate`: functions from a target to guides and to conditions."""

        def option(name: str, target: Target) -> Any:
            """Returns one option for a target."""
            return method.options(Case(target, weight, str(self.mask), str(learned)))[name]

        return {name: functools.partial(option, name) for name in ("guides", "conditions")}


def open_bench(
    generator: Generator,
    databases: Sequence[Database],
    classifier: AttributeClassifier,
    sizes: Sizes,
    folder: Path,
    seed: int = 0,
) -> Bench:
    """Returns a bench whose references and masks are files of a folder.

    Args:
      generator: the model.
      databases: of the neighbors and of the gallery.
      classifier: of the images.
      sizes: the amount of images.
      folder: for the files.
      seed: of the run.

    Raises:
      UserError: the databases hold too few images, or were made by another encoder.
    """
    sampling = generator.bundle.config["sampling"]
    gallery = open_gallery(databases, classifier.classes, int(sampling["height"]))
    targets, taken = choose_targets(gallery, classifier.classes, min(sizes.targets, len(gallery) // 4), folder)
    left = [row for row in range(len(gallery)) if row not in set(taken)]
    spare = len(targets) * sizes.images
    others = left[: min(sizes.others, max(len(left) // 2, len(left) - spare))]
    rest = gallery.take([row for row in left if row not in set(others)][:spare])
    retriever = Retriever(generator.encoder, list(databases))
    metrics = ImageMetrics(classifier, generator.encoder, targets, gallery.take(others))
    bench = Bench(generator, retriever, metrics, rest, sizes, folder / "mask.png", seed)
    white = np.repeat(np.where(bench.kept, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    bench.mask.write_bytes(encode(white))
    return bench
