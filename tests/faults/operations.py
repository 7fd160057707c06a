"""The operations whose writes fail in `test_faults.py`: each is the command line on inputs of a few kilobytes.

An operation writes below `place/out`. `Home` holds its inputs, which are made once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.cli.main import main
from rdm_jax.cli.png import read_record
from rdm_jax.convert.safetensors_file import SafetensorsFile
from rdm_jax.convert.torch_file import read_state_dict
from rdm_jax.convert.writing import write_back
from rdm_jax.core import images
from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.sidecar import NeighborSidecar
from rdm_jax.training.checkpoints import Checkpoints
from rdm_jax.training.export import write_record
from rdm_jax.training.model_record import ModelRecord
from rdm_jax.training.state import State
from rdm_jax.training.workdir import CONFIG, Workdir
from tests.helpers import tiny
from tests.retrieval.conftest import RandomEncoder, without_dates, write_images

PREPARED = 5  # the step of the checkpoint before
# Networks that CompVis's programs could build: 32 groups in every group norm.
WIDE = {
    "autoencoder": {**tiny.CONFIG["autoencoder"], "ch": 32, "num_groups": 32},
    "denoiser": {**tiny.CONFIG["denoiser"], "model_channels": 32, "num_head_channels": 32, "num_groups": 32},
}


@dataclasses.dataclass(frozen=True)
class Home:
    """The inputs of the operations.

    Attributes:
      folder: it holds model (a bundle), database (of the model), wide (a bundle that can be written back), original
        (a CompVis checkpoint of it), images and more (folders of images), words.txt, rows (a database by a stub
        encoder).
    """

    folder: Path

    @staticmethod
    def make(folder: Path) -> Home:
        """Makes the inputs in an empty folder."""
        bundle = tiny.bundle(latents={"scale": 0.5})
        bundle.save(folder / "model", "float32")
        tiny.database(folder, "database", Bundle.open(folder / "model"))
        tiny.bundle(latents={"scale": 0.5}, **WIDE).save(folder / "wide", "float32")
        write_back(folder / "wide", "compvis", folder / "original")
        write_images(folder / "images", 7)
        (folder / "words.txt").write_text("rocket\npaper plane\nrocket\n")
        write_images(folder / "more", 3, seed=1)
        return Home(folder)

    def __truediv__(self, name: str) -> str:
        return str(self.folder / name)

    @functools.cached_property
    def run(self) -> str:
        """The folder of a run that has trained a denoiser on the other parts of the model."""
        base, place = Bundle.open(self.folder / "model"), Workdir(self.folder / "run")
        record = ModelRecord.of({**base.config, "name": "trained"}, base, str(base.path), ("clip", "autoencoder"))
        params = {"denoiser": tiny.random_params(tiny.CONFIG, "denoiser", seed=5)}
        place.write_json(CONFIG, {"batch_size": 2, "seed": 0, "data": {"source": "images"}})
        write_record(place, record)
        with contextlib.closing(Checkpoints(place, keep=1)) as checkpoints:
            checkpoints.save(State(jnp.asarray(9, jnp.int32), params, params, (jnp.zeros(()),), {}), {}, {})
        return str(self.folder / "run")


class StubEncoder(RandomEncoder):
    """An encoder without a network in place of `ClipEncoder`."""

    def __init__(self, bundle: Bundle, batch_size: int = 16) -> None:
        super().__init__()
        self.bundle = bundle


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation and what must hold of its results.

    Attributes:
      run: runs it below a folder and returns the exit status; the message goes to standard error.
      check: raises unless everything in the folder that has its final name is complete.
      same: returns whether the results in two folders are the same.
      prepare: makes what is in the folder before.
    """

    run: Callable[[Home, Path], int]
    check: Callable[[Path], object]
    same: Callable[[Path, Path], bool]
    prepare: Callable[[Home, Path], None] = lambda home, place: None


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the files of a folder, without those that have temporary names."""
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(name): (folder / name).read_bytes() for name in names if not str(name).startswith(".")}


def same_contents(one: Path, other: Path) -> bool:
    """Returns whether two folders have the same files, dates in a manifest aside."""
    sides = []
    for folder in (one, other):
        files = contents(folder)
        if b'"history"' in files.get("manifest.json", b""):
            files["manifest.json"] = json.dumps(without_dates(folder)).encode()
        sides.append(files)
    return sides[0] == sides[1]


def _sample(home: Home, place: Path) -> int:
    model = ["--model", home / "model", "--database", home / "database"]
    few = ["--num-images", "8", "--batch-size", "4", "--seed", "7", "--steps", "2", "--quiet"]
    return main(["sample", "a red boat", *model, *few, "--out", str(place / "out")])


def _sample_words(home: Home, place: Path) -> int:
    """Runs the command that resumes a run of which there are images; without any, a new one begins."""
    record = place / "out" / "run.json"
    resume = ["--resume"] if record.exists() and json.loads(record.read_text())["images"] else []
    model = ["--model", home / "model", "--database", home / "database", "--out", str(place / "out")]
    few = ["--batch-size", "2", "--seed", "7", "--steps", "2", "--quiet"]
    return main(["sample", "--from-file", home / "words.txt", "--svg", *model, *few, *resume])


def _check_words(place: Path) -> None:
    _check_sample(place)
    for file in place.rglob("*.svg"):
        ElementTree.fromstring(file.read_bytes())


def _check_sample(place: Path) -> None:
    for record in place.rglob("run.json"):
        for entry in json.loads(record.read_text())["images"]:
            assert read_record(record.parent / entry["file"])[0]["index"] == entry["index"]
    for file in place.rglob("*.png"):
        images.decode(file.read_bytes())


def _same_sample(place: Path, expected: Path) -> bool:
    """Returns whether the newest run in a folder has the same images and complete records."""
    folder = max(record.parent for record in place.rglob("run.json"))
    one, other = (contents(each) for each in (folder, expected / "out"))
    return all(one.get(name) == other[name] for name in other)


def _same_words(place: Path, expected: Path) -> bool:
    """Returns whether a folder has the same images; a sheet of neighbors has those of the last command alone."""
    folder = max(record.parent for record in place.rglob("run.json"))
    one, other = (contents(each) for each in (folder, expected / "out"))
    return all(one.get(name) == other[name] for name in other if name != "neighbor_sheet.png")


def _with_stub(arguments: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rdm_jax.retrieval.encoder.ClipEncoder", StubEncoder)
        return main(arguments)


def _build(home: Home, place: Path, images: str = "images", *options: str) -> int:
    small = ["--part-size", "3", "--thumbnail-size", "12", "--encoder", home / "model", "--workers", "0"]
    return _with_stub(["database", "build", home / images, *small, "--out", str(place / "out" / "db"), *options])


def _check_database(place: Path) -> None:
    folder = place / "out" / "db"
    if folder.exists():
        Database.open(folder).verify()


def _check_appended(place: Path) -> None:
    if any((place / "out" / name).exists() for name in ("db", ".db.replaced")):  # else it was removed
        database = Database.open(place / "out" / "db")
        database.verify()
        assert len(database) in (7, 10)


def _prepare_append(home: Home, place: Path) -> None:
    if not (place / "out" / "db").exists():  # and what an append has begun without it is of no use
        shutil.rmtree(place / "out", ignore_errors=True)
        assert _build(home, place) == 0


def _neighbors(home: Home, place: Path) -> int:
    if not (home.folder / "rows").exists():
        from rdm_jax.data.sources import open_source

        build_database(BuildJob.of(open_source(home / "images"), RandomEncoder(), BuildOptions()), home.folder / "rows")
    options = ["--k", "2", "--encoder", home / "model", "--workers", "0", "--out", str(place / "out" / "neighbors")]
    return _with_stub(["neighbors", "--dataset", home / "more", "--database", home / "rows", *options])


def _check_neighbors(place: Path) -> None:
    if (place / "out" / "neighbors").exists():
        NeighborSidecar.open(place / "out" / "neighbors").verify()


def _convert(home: Home, place: Path) -> int:
    source = ["convert", str(home.folder / "original" / "model.ckpt"), "--clip", home / "model"]
    return main([*source, "--out", str(place / "out" / "model")])


def _check_bundle(place: Path) -> None:
    if (place / "out" / "model").exists():
        assert Bundle.open(place / "out" / "model").params


def _convert_to(program: str, home: Home, place: Path) -> int:
    return main(["convert", home / "wide", "--to", program, "--out", str(place / "out" / "model")])


def _check_written(place: Path) -> None:
    folder = place / "out" / "model"
    if not folder.exists():
        return
    last, files = folder / "model.ckpt", list(folder.rglob("*.safetensors"))
    assert read_state_dict(last) if last.exists() else (folder / "model_index.json").is_file() and len(files) == 3
    for file in files:
        assert dict(SafetensorsFile(file))


def _export(home: Home, place: Path) -> int:
    return main(["export", home.run, "--out", str(place / "out" / "model")])


def _state(step: int) -> State:
    params = {"net": {"kernel": jnp.full((4, 3), step + 0.5), "bias": jnp.arange(3.0) * step}}
    return State(jnp.asarray(step, jnp.int32), params, jax.tree.map(jnp.copy, params), (jnp.zeros(()),), {})


def _save(home: Home, place: Path, step: int = PREPARED + 1) -> int:
    """Saves a checkpoint as `rdm train` does, and reports its error as `rdm` does."""
    try:
        with Checkpoints(Workdir(place / "out"), keep=2) as checkpoints:
            checkpoints.save(_state(step), {"next": step}, {"seed": 3})
            checkpoints.close()
    except UserError as error:
        sys.stderr.write(f"rdm: error: {error}\n")
        return 2
    return 0


def _prepare_checkpoints(home: Home, place: Path) -> None:
    for step in (PREPARED - 1, PREPARED):
        if not (place / "out" / "checkpoints" / str(step)).exists():
            assert _save(home, place, step) == 0


def _restored(place: Path) -> State | None:
    with contextlib.closing(Checkpoints(Workdir(place / "out"), keep=2)) as checkpoints:
        found = checkpoints.restore(_state(0))
    return found and found[0]


def _check_checkpoints(place: Path) -> None:
    if not (place / "out" / "checkpoints").exists():
        return
    state = _restored(place)
    if state is not None:
        step = int(state.step)
        assert step in (PREPARED, PREPARED + 1)
        jax.tree.map(np.testing.assert_array_equal, state, _state(step))


def _same_checkpoints(place: Path, expected: Path) -> bool:
    steps = {path.name for path in (place / "out" / "checkpoints").iterdir()}
    state = _restored(place)
    return state is not None and int(state.step) == PREPARED + 1 and steps == {str(PREPARED), str(PREPARED + 1)}


def _same(name: str) -> Callable[[Path, Path], bool]:
    return lambda place, expected: same_contents(place / "out" / name, expected / "out" / name)


OPERATIONS = {
    "sample": Operation(_sample, _check_sample, _same_sample),
    "sample words": Operation(_sample_words, _check_words, _same_words),
    "build": Operation(_build, _check_database, _same("db")),
    "append": Operation(
        lambda home, place: _build(home, place, "more", "--append"), _check_appended, _same("db"), _prepare_append
    ),
    "neighbors": Operation(_neighbors, _check_neighbors, _same("neighbors")),
    "convert": Operation(_convert, _check_bundle, _same("model")),
    "convert to CompVis": Operation(functools.partial(_convert_to, "compvis"), _check_written, _same("model")),
    "convert to diffusers": Operation(functools.partial(_convert_to, "diffusers"), _check_written, _same("model")),
    "export": Operation(_export, _check_bundle, _same("model")),
    "checkpoint": Operation(_save, _check_checkpoints, _same_checkpoints, _prepare_checkpoints),
}
