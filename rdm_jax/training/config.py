"""Configurations: Python files whose `get_config(arg)` returns what a run sets; the task's schema has the rest.

    rdm train --config style_scenes/rdm --config.batch_size=8

A file may start from another one by `base_config`. The shipped files are `configs/` of a checkout, and part of the
installed package.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ml_collections import ConfigDict

from rdm_jax.core import paths, schema, text
from rdm_jax.core.errors import UserError, first_line, unknown

# ml_collections declares every value as the union of all types; a type checker cannot know a setting's own.
if TYPE_CHECKING:
    Config: TypeAlias = Any
else:
    Config = ConfigDict

PACKAGE = Path(__file__).parents[1]
ARCHITECTURES = "models"  # the folder of configs that describe networks, and no run
ABLATIONS = "ablations"  # the folder of grids of runs (`rdm ablate`)


def load_config(spec: str, overrides: Sequence[str] = ()) -> Config:
    """Returns the configuration of a run, with the defaults of its task and overrides applied; it is locked.

    Args:
      spec: a shipped config ("style_scenes/rdm") or a file ("mine.py"); after a colon the argument of its `get_config`.
      overrides: "key.subkey=value" each; the value is of the type that the schema declares.

    Raises:
      UserError: there is no such config, it fails, a key is unknown or missing, or a value is of another type.
    """
    values = base_config(spec).to_dict()
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"--config.{override} has no value; write --config.{key}=VALUE")
        schema.put(values, key, schema.Text(value))
    return complete_config(values).lock()


def complete_config(values: Mapping[str, Any]) -> Config:
    """Returns what a run sets together with the defaults of its task, checked and unlocked.

    Raises:
      UserError: a key is unknown or missing, or a value is of another type or invalid.
    """
    from rdm_jax.training.tasks import task_module

    if "task" not in values:
        raise schema.missing("task")
    return ConfigDict(schema.read(task_module(str(values["task"])).Schema, values))


def base_config(spec: str) -> Config:
    """Returns what a config sets, without defaults and unchecked: another one may start from it.

    Args:
      spec: as of `load_config`.

    Raises:
      UserError: there is no such config, or it fails.
    """
    return ConfigDict(config_values(spec))


def config_values(spec: str) -> dict[str, Any]:
    """Returns what a config sets as it is; grids have names with dots, which a `ConfigDict` refuses.

    Args:
      spec: as of `load_config`.

    Raises:
      UserError: there is no such config, or it fails.
    """
    is_file = paths.is_remote(spec) or spec.endswith(".py")
    name, _, argument = (spec, "", "") if is_file else spec.rpartition(":") if ".py:" in spec else spec.partition(":")
    return _call(_find(name), argument)


def load_architecture(name: str) -> Config:
    """Returns the configuration of networks that is shipped under a name ("kl_f8"), unlocked.

    Raises:
      UserError: there is none.
    """
    file = configs_folder() / ARCHITECTURES / f"{name}.py"
    if not file.is_file():
        raise unknown("architecture", name, [path.stem for path in file.parent.glob("*.py")])
    return ConfigDict(_call(file, ""))


def configs_folder() -> Path:
    """Returns the folder of the shipped configs: in the installed package, or beside it in a checkout."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def shipped_configs(folder: str = "") -> dict[str, str]:
    """Returns {name: first line of its docstring} of the configs in a folder; "" is all that describe a run."""
    root = configs_folder()
    names = {file.relative_to(root).with_suffix("").as_posix(): file for file in root.rglob("[!_]*.py")}
    wanted = [name for name in sorted(names) if (name.startswith(f"{folder}/") if folder else _describes_run(name))]
    return {name: (ast.get_docstring(ast.parse(text.read(names[name]))) or "").partition("\n")[0] for name in wanted}


def _describes_run(name: str) -> bool:
    return not name.startswith((f"{ARCHITECTURES}/", f"{ABLATIONS}/"))


def _find(name: str) -> Path:
    """Returns the file of a config by its name or its path."""
    shipped = configs_folder() / f"{name}.py"
    if not name.endswith(".py"):
        if shipped.is_file():
            return shipped
        grids = ABLATIONS if name.startswith(f"{ABLATIONS}/") else ""
        raise unknown("config", name, shipped_configs(grids), hint="or give a file, as mine.py")
    file = paths.local(name)
    if not file.is_file():
        raise UserError(f"there is no config file {name}; `rdm train --list-configs` prints the shipped configs")
    return file


def _call(file: Path, argument: str) -> dict[str, Any]:
    """Returns what a file's `get_config` returns."""
    module_spec = importlib.util.spec_from_file_location(f"rdm_config_{file.stem}", file)
    assert module_spec and module_spec.loader, file  # a .py file always has a loader
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"{file} has no function get_config(); see the shipped configs for examples")
        if argument and not inspect.signature(module.get_config).parameters:
            raise UserError(f"{file} takes no argument, and {argument!r} was given; write --config {file}")
        values = module.get_config(argument) if argument else module.get_config()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"config {file} fails: {_reason(file, error)}") from error
    values = values.to_dict() if isinstance(values, ConfigDict) else values
    if not isinstance(values, Mapping):
        raise UserError(f"get_config() of {file} returns a {type(values).__name__}; return a dictionary")
    return dict(values)


def _reason(file: Path, error: Exception) -> str:
    """Returns an error of a config file in one line: what, and in which line of the file."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} in line {error.lineno}"
    frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = f" in line {frames[-1]}" if frames else ""
    return f"{type(error).__name__}: {first_line(error)}{line}"
