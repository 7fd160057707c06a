"""The command line's front door, with a tiny random model and databases of its own."""

from __future__ import annotations

import functools
import json

import pytest

from rdm_jax.cli.main import main
from rdm_jax.generator import Generator
from tests.helpers import tiny


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with a model, two of its databases, and one that another encoder made."""
    folder = tmp_path_factory.mktemp("home")
    bundle = tiny.bundle()
    bundle.save(folder / "model", "float32")
    opened = Generator.load(folder / "model").bundle
    for seed, name in enumerate(["one", "two"]):
        tiny.database(folder, name, opened, seed=seed)
    tiny.database(folder, "foreign", tiny.bundle(name="other"))
    manifest = json.loads((folder / "foreign" / "manifest.json").read_text())
    manifest["encoder"]["sha256"] = "0" * 64
    (folder / "foreign" / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="session")
def load():
    """Loads each model in each type once, so that what a test compiled serves the next one too."""
    return functools.cache(Generator.load)


@pytest.fixture
def rdm(home, load, monkeypatch, own_environment, tmp_path):
    """Runs the command line in an empty folder; returns the exit status."""
    monkeypatch.setattr(Generator, "load", staticmethod(load))
    monkeypatch.chdir(tmp_path)
    places = {"--model": "model", "--database": "one"}

    def run(verb, *arguments, defaults=("--model", "--database")):
        given = [part for name in defaults for part in (name, str(home / places[name]))]
        return main([verb, *given, *map(str, arguments)])

    return run
