"""Evaluators of a run: what `config.evaluators` names is measured at `eval_every`, with averaged parameters.

"loss" is the task's own evaluation, its losses on held-out images. The others are metrics of sets: images that the
model generates under the conditions of held-out images, against these images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.file_names import file_name
from rdm_jax.data.array_source import ArraySource
from rdm_jax.evaluation import set_metrics
from rdm_jax.evaluation.features.extraction import extract
from rdm_jax.evaluation.features.networks import FeatureNetwork
from rdm_jax.evaluation.set_comparison import Comparison, MeasuredSet, Options, open_bundles
from rdm_jax.evaluation.set_metrics import SetMetric
from rdm_jax.training.config import Config
from rdm_jax.training.tasks.base import Task

LOSS = "loss"
OF_FEW_IMAGES = ("kid", "cmmd", "is", "prdc")  # a Fréchet distance needs more images than features
LEAST_IMAGES = 16
RESIZE = "clean"


@dataclasses.dataclass
class Evaluators:
    """What a run measures at `eval_every`.

    Attributes:
      loss: whether the task's own evaluation is among them.
      metrics: of generated images, by name.
      networks: of each metric.
      images: to generate.
      seed: of subsets.
      reference: the held-out images with their features, after the first evaluation.
    """

    loss: bool
    metrics: Mapping[str, SetMetric]
    networks: Mapping[str, FeatureNetwork]
    images: int
    seed: int
    reference: MeasuredSet | None = None

    @staticmethod
    def of(config: Config, task: Task) -> Evaluators:
        """Returns the evaluators of a configuration.

        Raises:
          UserError: there is no such evaluator, the task generates no images, too few images are held out, or a bundle
            of `evaluator_features` cannot be opened.
        """
        names = dict.fromkeys(config.evaluators)
        for name in names:
            if name not in (LOSS, *OF_FEW_IMAGES):
                raise unknown(
                    "evaluator", name, (LOSS, *OF_FEW_IMAGES), hint="`rdm evaluate model` has the other metrics"
                )
        metrics = {name: set_metrics.METRICS[name] for name in names if name != LOSS}
        if not metrics or not config.eval_every:
            return Evaluators(LOSS in names, {}, {}, 0, config.seed)
        images = min(config.evaluated_images, task.comparable_images)
        if images < LEAST_IMAGES:
            raise UserError(
                f"evaluators {', '.join(metrics)} compare generated with held-out images and need {LEAST_IMAGES}, and "
                f"task {config.task!r} has {images} here; raise data.held_out_rows and evaluated_images, or use "
                f"evaluators={LOSS}"
            )
        networks = set_metrics.networks_of(metrics, open_bundles(list(config.evaluator_features)), RESIZE)
        return Evaluators(LOSS in names, metrics, networks, images, config.seed)

    def measure(self, task: Task, params: Any) -> Iterator[tuple[str, float]]:
        """Yields named values of averaged parameters."""
        if self.loss:
            yield from task.evaluate(params)
        if not self.metrics:
            return
        generated, real = task.generated(params, self.images)
        if self.reference is None:
            self.reference = self._measured("held-out images", real)
        images = self._measured("generated images", generated)
        comparison = Comparison(images, self.reference, None, Options(seed=self.seed))
        for row in set_metrics.measure(comparison, self.metrics, self.networks):
            yield file_name(row["title"]), row["value"]

    def _measured(self, name: str, images: UInt8[np.ndarray, "n h w 3"]) -> MeasuredSet:
        """Returns images with their features by each network."""
        source, networks = ArraySource(name, images), list(dict.fromkeys(self.networks.values()))
        contents, features = extract(source, networks, keep=True)
        return MeasuredSet(source, contents, dict(zip(networks, features, strict=True)), contents.record)
