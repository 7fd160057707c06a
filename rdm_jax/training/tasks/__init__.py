"""The training tasks: each has its parameters, its records, its loss, its evaluation and its exported model."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.progress import StageProgressCallback

if TYPE_CHECKING:  # `training.config` reads the schemas of tasks
    from rdm_jax.training.config import Config
    from rdm_jax.training.tasks.base import Task

TASKS = {
    "clip": "rdm_jax.training.tasks.clip",
    "autoencoder": "rdm_jax.training.tasks.autoencoder",
    "first_stage": "rdm_jax.training.tasks.first_stage",
    "diffusion": "rdm_jax.training.tasks.diffusion",
    "inputs": "rdm_jax.training.tasks.inputs",
    "encoders": "rdm_jax.training.tasks.encoders",
    "re_imagen": "rdm_jax.training.tasks.re_imagen",
    "roles": "rdm_jax.training.tasks.roles",
    "style_encoder": "rdm_jax.training.tasks.style_encoder",
    "distill": "rdm_jax.training.tasks.distill",
    "distill_roles": "rdm_jax.training.tasks.distill_roles",
    "autoregressive": "rdm_jax.training.tasks.autoregressive",
    "masked": "rdm_jax.training.tasks.masked",
    "masked_fine": "rdm_jax.training.tasks.masked_fine",
    "parti": "rdm_jax.training.tasks.parti",
    "noised_clip": "rdm_jax.training.tasks.noised_clip",
    "noised_classifier": "rdm_jax.training.tasks.noised_classifier",
    "translator": "rdm_jax.training.tasks.translator",
    "prior": "rdm_jax.training.tasks.prior",
    "classifier": "rdm_jax.training.tasks.classifier",
}


def task_module(name: str) -> Any:
    """Returns the module of a task: its `Schema`, `make`, and `abstract` where it has a dry run.

    Raises:
      UserError: there is no such task.
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return importlib.import_module(TASKS[name])


def make_task(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> Task:
    """Returns the task that `config.task` names, its data opened and its caches filled.

    Args:
      config: the run's configuration.
      workdir: the run's folder.
      progress: called with (stage, done, total) while caches are filled.
      start: the bundle that a new run starts from.

    Raises:
      UserError: there is no such task, or its data or the parts of its base are missing.
    """
    return task_module(config.task).make(config, workdir, progress, start)


def has_dry_run(name: str) -> bool:
    """Returns whether a task can be made from its configuration alone; raises UserError if there is no such task."""
    return hasattr(task_module(name), "abstract")


def make_abstract_task(config: Config) -> tuple[Task, dict[str, jax.ShapeDtypeStruct]]:
    """Returns the task that `config.task` names and the shapes of its global batch, from the configuration alone.

    Its data are one blank image, and its frozen parameters are shapes: it serves the dry run.

    Raises:
      UserError: there is no such task, or it needs more than its configuration.
    """
    module = task_module(config.task)
    if not has_dry_run(config.task):
        able = [name for name in TASKS if has_dry_run(name)]
        raise UserError(f"task {config.task!r} has no dry run; {', '.join(able)} have")
    task = module.abstract(config)
    record = task.read(0, np.random.default_rng(0))
    batch = task.complete({name: np.asarray(value)[None] for name, value in record.items()})
    size = config.batch_size
    return task, {name: jax.ShapeDtypeStruct((size, *value.shape[1:]), value.dtype) for name, value in batch.items()}
