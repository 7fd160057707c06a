"""`rdm env`: what a report of a bug needs to say about this installation and machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from rdm_jax.core import text

HELP = """print the versions, the devices and the settings that a report of a bug needs

  rdm env > env.txt

Only names and numbers of this installation are printed: no prompt, no file name of yours."""

PACKAGE = "rdm_jax"
VARIABLES = re.compile(r"JAX_\w+|XLA_\w+|RDM_\w+|CUDA_VISIBLE_DEVICES|OMP_NUM_THREADS|LIBTPU_INIT_ARGS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument(
        "--no-devices", action="store_true", help="leave out the devices, for which JAX opens the accelerator"
    )


def run(args: argparse.Namespace) -> None:
    """Prints the report."""
    sections = {
        "": _machine(),
        "packages": _packages(),
        "devices": iter(()) if args.no_devices else _devices(),
        "environment": _variables(),
    }
    for title, lines in sections.items():
        found = list(lines)
        if found and title:
            print(f"\n{title}:")
        for name, value in found:
            print(f"{'  ' if title else ''}{name}: {value}")


def _machine() -> Iterator[tuple[str, str]]:
    yield PACKAGE, importlib.metadata.version(PACKAGE)
    yield "python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "system", platform.platform()
    yield "processor", _processor()
    yield "cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield "memory", f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"


def _processor() -> str:
    """Returns the processor's model, as the system names it."""
    try:
        models = re.findall(r"^model name\s*:\s*(.+)$", text.read(Path("/proc/cpuinfo")), re.MULTILINE)
    except OSError:
        models = []
    return models[0] if models else platform.processor() or platform.machine()


def _packages() -> Iterator[tuple[str, str]]:
    """Yields the dependencies of this package and of its extras with their versions, the required ones first."""
    requirements = importlib.metadata.requires(PACKAGE) or ()
    parsed = [_requirement(one) for one in requirements]
    required = sorted({name for name, extra in parsed if not extra})
    for name in required:
        yield name, _version(name) or "not installed"
    for name in sorted({name for name, extra in parsed if extra} - set(required)):
        if version := _version(name):
            yield name, f"{version} (optional)"


def _requirement(requirement: str) -> tuple[str, bool]:
    """Returns the package of a requirement, and whether only an extra needs it."""
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None, requirement
    return name[0], "extra ==" in requirement


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[tuple[str, str]]:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        yield "none", str(error).partition("\n")[0]
        return
    yield "backend", jax.default_backend()
    kinds = [device.device_kind for device in devices]
    for kind in sorted(set(kinds)):
        yield kind, str(kinds.count(kind))


def _variables() -> Iterator[tuple[str, str]]:
    yield from sorted((name, value) for name, value in os.environ.items() if VARIABLES.fullmatch(name))
