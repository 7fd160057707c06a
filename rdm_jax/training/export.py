"""From a run's folder to a bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.bundle import Bundle
from rdm_jax.core import files, hub, paths
from rdm_jax.core.errors import UserError
from rdm_jax.data.tokenizer import load_tokenizer
from rdm_jax.training import power_averages
from rdm_jax.training.checkpoints import restore_arrays
from rdm_jax.training.metrics import last_evaluation
from rdm_jax.training.model_record import ModelRecord
from rdm_jax.training.workdir import CONFIG, MODEL, TOKENIZER, Workdir

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def write_record(workdir: Workdir, record: ModelRecord) -> None:
    """Writes what a run's model consists of into its folder, so that it can be exported without the data."""
    workdir.write_json(MODEL, dataclasses.asdict(record))
    if (workdir.local / TOKENIZER).is_file():
        workdir.publish(TOKENIZER)


def export_run(place: str | Path, ema_length: float | None = None, step: int | None = None) -> Bundle:
    """Returns the model of a run's checkpoint, averaged parameters, with the record of each part's training.

    Args:
      place: the run's folder or address.
      step: of the checkpoint; the newest one if None.
      ema_length: of a power-function average at the newest snapshot, in place of the run's own moving average.

    Raises:
      UserError: the folder is no run or has no checkpoint, the run's base bundle is gone or has changed, or the run has
        no snapshots of averages.
    """
    workdir = Workdir.existing(place)
    config, stored = workdir.read_json(CONFIG), workdir.read_json(MODEL)
    if config is None:
        raise UserError(f"{workdir} is no training run: it has no {CONFIG}; give a --workdir of `rdm train`")
    if stored is None:
        raise UserError(f"{workdir} has no {MODEL}; start `rdm train` there once more, which writes it")
    step, state, _ = restore_arrays(workdir, step)
    record = ModelRecord.read(stored, str(workdir))
    params, length = state["ema"], {}
    if ema_length is not None:
        step, params = power_averages.reconstruct(workdir, ema_length, step)
        length = {"ema_length": ema_length}
    bundle = record.bundle(params, record.open_base(str(workdir)), _tokenizer(workdir))
    run = {"steps": step, "batch_size": config["batch_size"], "seed": config["seed"], **length}
    run |= {**_data(config["data"]), **last_evaluation(workdir, step)}
    training = dict(bundle.config.get("training", {}))
    training |= {part: {**training.get(part, {}), **run} for part in bundle.params if part not in record.parts}
    return Bundle({**bundle.config, "training": training}, bundle.params, bundle.tokenizer)


def run_or_model(place: str | Path, ema_length: float | None = None, step: int | None = None) -> Bundle:
    """Returns the model of a run by its folder, or a model by its name or folder.

    Args:
      place: the name, folder or address.
      ema_length: of a run's average, as of `export_run`; a model has none to choose from.
      step: of a run's checkpoint, likewise.

    Raises:
      UserError: as `export_run` and `Bundle.open` do.
    """
    if str(place) in Bundle.names() or hub.is_address(place):
        return Bundle.open(place)
    is_model = not paths.is_remote(place) and any(paths.local(place).glob("*.safetensors"))
    return Bundle.open(place) if is_model else export_run(place, ema_length, step)


def _data(data: Mapping[str, Any]) -> dict[str, str]:
    """Returns the names of a run's images and database; of a place, its last part alone."""
    source = " ".join(filter(None, (_name(data.get("source")), data.get("split"))))
    names = {"data": source, "database": _name(data.get("database"))}
    return {key: name for key, name in names.items() if name}


def _name(place: Any) -> str:
    """Returns a name as it is, and of a path or an address in storage the last part: where it lay is private."""
    text = str(place or "").rstrip("/")
    private = paths.is_remote(text) or text.startswith((".", "~", "/")) or (bool(text) and paths.local(text).exists())
    return text.rpartition("/")[2] if private and not hub.is_address(text) else text


def _tokenizer(workdir: Workdir) -> PreTrainedTokenizerFast | None:
    """Returns the tokenizer of a run that trains a CLIP, None of another one."""
    written = workdir.read(TOKENIZER)
    if written is None:
        return None
    file = workdir.local / TOKENIZER
    if workdir.is_remote:
        with files.writing(file):
            files.write_bytes(file, written)
    return load_tokenizer(file)
