"""`rdm env`: the versions that are installed, the devices that JAX has, the variables that matter, and nothing else."""

from __future__ import annotations

import importlib.metadata

import jax
import pytest

from rdm_jax.cli.main import main


@pytest.fixture
def report(capsys, monkeypatch):
    def make(*arguments):
        assert main(["env", *arguments]) == 0
        return capsys.readouterr().out

    monkeypatch.setenv("RDM_EXAMPLE", "yes")
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    return make


def test_versions_are_those_of_the_packages(report):
    lines = report().splitlines()
    for name in ("rdm_jax", "jax", "flax", "numpy"):
        assert any(line.strip() == f"{name}: {importlib.metadata.version(name)}" for line in lines), name
    assert any(line.startswith("  pytest: ") and line.endswith("(optional)") for line in lines)


def test_devices_are_those_of_jax(report):
    kinds = [device.device_kind for device in jax.devices()]
    assert f"  backend: {jax.default_backend()}\n" in report()
    assert f"  {kinds[0]}: {kinds.count(kinds[0])}\n" in report()
    assert "devices:" not in report("--no-devices")


def test_variables_of_jax_and_of_this_package_alone_are_printed(report):
    text = report("--no-devices")
    assert "  RDM_EXAMPLE: yes\n" in text
    assert "hidden" not in text


def test_a_missing_package_is_named(report, monkeypatch):
    def version(name):
        if name == "optax":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "  optax: not installed\n" in report("--no-devices")
