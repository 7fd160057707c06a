"""From a run's folder to a bundle."""

from __future__ import annotations

import json
from pathlib import Path

from ml_collections import ConfigDict

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.training.checkpoints import restore_arrays
from rdm_jax.training.tasks import make_task
from rdm_jax.training.workdir import Workdir


def export_run(workdir: Path) -> Bundle:
    """Returns the bundle of a run's newest checkpoint, averaged parameters, with a record of where they come from.

    Raises:
      UserError: the folder is no run, has no checkpoint, or the task's data are gone.
    """
    file = workdir / "config.json"
    if not file.is_file():
        raise UserError(f"{workdir} is no training run: it has no config.json; give a --workdir of `rdm train`")
    config = ConfigDict(json.loads(file.read_text()), convert_dict=True)
    step, state, _ = restore_arrays(Workdir(workdir))
    params = state["ema"]
    bundle = make_task(config, workdir, lambda *_: None).export(params)
    record = {part: {"steps": step, "batch_size": config.batch_size, "seed": config.seed} for part in params}
    training = {**bundle.config.get("training", {}), **record}
    return Bundle({**bundle.config, "training": training}, bundle.params, bundle.tokenizer)
