"""The identity of a run: a workdir belongs to one configuration, and checkpoints to the data they were trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rdm_jax.core import files, trees
from rdm_jax.core.distributed import is_first
from rdm_jax.core.errors import UserError, some
from rdm_jax.training.config import Config
from rdm_jax.training.workdir import CONFIG, Workdir

MUTABLE = (
    "steps",
    "evaluators",
    "evaluated_images",
    "evaluator_features",
    "threads",
    "process_timeout",
    "keep_checkpoints",
    "keep_every",
    "wandb",
    "profile",
    "mesh",
    "data.data_dir",
)
"""The settings, besides `*_every`, that may change between runs of one workdir; no step's result depends on them."""


def claim_workdir(workdir: Workdir, config: Config, *, begun: bool) -> None:
    """Writes the configuration into the workdir; a run that has begun keeps its configuration, except `MUTABLE`.

    Args:
      workdir: the run's folder.
      config: the run's configuration.
      begun: whether the run has checkpoints; before the first one another configuration may replace this one.

    Raises:
      UserError: the workdir has another configuration, or cannot be written.
    """
    settings = json.loads(config.to_json_best_effort())
    before = workdir.read_json(CONFIG) if begun else None
    changed = [name for name in _differences(before, settings) if not _is_mutable(name)] if before else []
    if changed:
        raise UserError(
            f"{workdir} belongs to a run with another config (it differs in {some(changed)}); use another "
            "--workdir, or the config of that run, or --replace-config"
        )
    if is_first():
        workdir.write_json(CONFIG, settings)


def settings_hash(config: Config) -> str:
    """Returns a hash of all settings that a run's result depends on, which are those not in `MUTABLE`."""
    flat = trees.flatten(json.loads(config.to_json_best_effort()))
    return files.sha256_json({name: value for name, value in flat.items() if not _is_mutable(name.replace("/", "."))})


def check_record(workdir: Workdir, before: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Raises UserError if a run began with other images, another base or another database than it has now.

    Args:
      workdir: the run's folder, for the message.
      before: the record of the newest checkpoint.
      now: the record of the task; entries of `before` that it does not have are not compared.
    """
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        raise UserError(
            f"{workdir} was begun with another {' and '.join(changed)} than there is now; restore it, use another "
            "--workdir, or continue this run with --replace-config"
        )


def _is_mutable(name: str) -> bool:
    return name.endswith("_every") or name in MUTABLE or name.partition(".")[0] in MUTABLE


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    flat_old, flat_new = trees.flatten(old), trees.flatten(new)
    missing = object()
    names = sorted(flat_old.keys() | flat_new.keys())
    return [n.replace("/", ".") for n in names if flat_old.get(n, missing) != flat_new.get(n, missing)]
