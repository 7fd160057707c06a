"""What a run learns: each task supplies its parameters, its records, its loss, its evaluation and what it exports."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import unknown
from rdm_jax.training.config import Config
from rdm_jax.training.tasks.base import Task

TASKS = {
    "clip": "rdm_jax.training.tasks.clip",
    "autoencoder": "rdm_jax.training.tasks.autoencoder",
    "diffusion": "rdm_jax.training.tasks.diffusion",
    "classifier": "rdm_jax.training.tasks.classifier",
}


def make_task(
    config: Config, workdir: Path, progress: Callable[[str, int, int], None], start: Bundle | None = None
) -> Task:
    """Returns the task that `config.task` names, its data opened and its caches filled.

    Args:
      config: the run's configuration.
      workdir: the run's folder.
      progress: called with (what, done, total) while caches are filled.
      start: the bundle that a new run starts from.

    Raises:
      UserError: there is no such task, or its data or the parts that it stands on are missing.
    """
    if config.task not in TASKS:
        raise unknown("task", config.task, TASKS)
    return importlib.import_module(TASKS[config.task]).make(config, workdir, progress, start)
