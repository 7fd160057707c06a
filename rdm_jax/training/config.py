"""Configurations: Python files with `get_config(arg)`, overridden from the command line, unknown keys refused."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml
from ml_collections import ConfigDict

from rdm_jax.core.errors import UserError, unknown

# ml_collections declares every value as the union of all types; a type checker cannot know a setting's own.
if TYPE_CHECKING:
    Config: TypeAlias = Any
else:
    Config = ConfigDict


def defaults() -> Config:
    """Returns the settings that every run has; a config file adds its task's own.

    Steps, `*_every` and `warmup` count updates, one of `batch_size` examples each; `accumulate` parts of a batch follow
    each other on the devices. 0 turns an interval off. `keep_checkpoints` newest checkpoints stay, and those of every
    multiple of `keep_every`. `init_partial` takes from `--init-from` the parameters of the same name and shape, and
    leaves the others fresh. `mesh.fsdp` devices share one copy of the state, by `mesh.rules` (`core.mesh`).
    `process_timeout` is in seconds; `profile` says which steps are traced; `wandb` names a project. `compiler_options`
    are XLA's, as {"xla_backend_optimization_level": 0}, for the step and the making of the first state.
    """
    return ConfigDict(
        {
            "task": "",
            "name": "unnamed",
            "seed": 0,
            "steps": 1000,
            "batch_size": 32,
            "log_every": 50,
            "eval_every": 0,
            "figures_every": 0,
            "checkpoint_every": 500,
            "keep_checkpoints": 2,
            "keep_every": 0,
            "ema_decay": 0.999,
            "accumulate": 1,
            "threads": 4,
            "init_partial": False,
            "process_timeout": 120.0,
            "profile": {"start": 0, "steps": 0},
            "wandb": "",
            "compiler_options": {},
            "mesh": {"fsdp": 1, "rules": ()},
            "data": {
                "source": "style_scenes",
                "split": "train",
                "held_out": "validation",
                "data_dir": "data",
                "size": 64,
                "cache": True,
                "prepare": False,
            },
            "optimizer": {
                "learning_rate": 1e-3,
                "warmup": 100,
                "decay": "cosine",
                "b1": 0.9,
                "b2": 0.999,
                "weight_decay": 0.0,
                "clip_norm": 1.0,
                "frozen": (),
            },
        }
    )


def load_config(spec: str, overrides: Sequence[str] = ()) -> Config:
    """Returns the configuration of a file, with overrides applied.

    Args:
      spec: "FILE.py" or "FILE.py:ARG"; ARG goes to the file's `get_config`.
      overrides: "key.subkey=value" each; the value is read as YAML and must be of the key's type.

    Raises:
      UserError: there is no such file, it has no `get_config`, a key is unknown or a value is of another type.
    """
    file, _, argument = spec.partition(":")
    config = _get_config(Path(file), argument)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"--config.{override} has no value; write --config.{key}=VALUE")
        _set(config, key, value)
    return config.lock()


def _get_config(file: Path, argument: str) -> Config:
    if not file.is_file():
        raise UserError(f"there is no config file {file}; see configs/ for those of the project")
    module_spec = importlib.util.spec_from_file_location(f"rdm_config_{file.stem}", file)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{file} is no Python file; a config is one with a function get_config")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{file} is no Python file: {error.msg} in line {error.lineno}") from error
    if not hasattr(module, "get_config"):
        raise UserError(f"{file} has no function get_config(); see configs/ for examples")
    if argument and not inspect.signature(module.get_config).parameters:
        raise UserError(f"{file} takes no argument, and {argument!r} was given; write --config {file}")
    return module.get_config(argument) if argument else module.get_config()


def _set(config: Config, key: str, text: str) -> None:
    *parents, last = key.split(".")
    node: Any = config
    for depth, name in enumerate([*parents, last]):
        if not isinstance(node, ConfigDict) or name not in node:
            known = [".".join([*parents[:depth], each]) for each in node] if isinstance(node, ConfigDict) else []
            raise unknown("config key", key, known)
        if depth < len(parents):
            node = node[name]
    try:
        node[last] = _typed(yaml.safe_load(text), node[last])
    except (TypeError, ValueError, yaml.YAMLError) as error:
        kind = type(node[last]).__name__
        raise UserError(f"--config.{key}={text}: the value must be of type {kind}, like {node[last]!r}") from error


def _typed(value: object, old: object) -> object:
    if isinstance(old, bool) != isinstance(value, bool):
        raise TypeError
    if isinstance(old, float) and isinstance(value, (int, str)):
        return float(value)
    if isinstance(old, str):
        return "" if value is None else str(value)
    if isinstance(old, tuple):
        return tuple(value) if isinstance(value, list) else (value,)
    return value
