"""Training on the same images in every form that a source has: the same batches, and so the same losses."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from rdm_jax.cli.main import main
from rdm_jax.data.sources import open_source
from tests.helpers import tiny_run


def tars(images: Path, folder: Path) -> Path:
    pytest.importorskip("webdataset", reason="WebDataset needs the extra: pip install 'rdm_jax[webdataset]'")
    folder.mkdir()
    files = sorted(images.iterdir())
    for shard in range(3):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for file in files[shard * 8 : shard * 8 + 8]:
                archive.add(file, file.name)
    return folder


def parquet(images: Path, folder: Path) -> Path:
    reason = "data sets of Hugging Face need the extra: pip install 'rdm_jax[datasets]'"
    datasets = pytest.importorskip("datasets", reason=reason)
    datasets.disable_progress_bars()
    rows = {"image": [{"bytes": file.read_bytes(), "path": file.name} for file in sorted(images.iterdir())]}
    features = datasets.Features({"image": datasets.Image()})
    folder.mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("write", [tars, parquet])
def test_losses_are_those_of_the_folder_also_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_environment: None, write
) -> None:
    monkeypatch.setenv("RDM_CACHE", str(tmp_path / "cache"))
    folder = tiny_run.write_images(tmp_path / "images")
    for file in sorted(folder.iterdir()):
        file.rename(folder / f"{int(file.stem):03d}.png")
    source = write(folder, tmp_path / "other")
    assert len(open_source(str(source))) == len(open_source(str(folder))) == 24
    losses = {}
    for name, place, stops in (("folder", folder, (4,)), ("other", source, (2, 4))):
        for steps in stops:
            assert main(tiny_run.command(place, tmp_path, tmp_path / f"run-{name}", {"steps": steps})) == 0
        lines = (tmp_path / f"run-{name}" / "metrics.jsonl").read_text().splitlines()
        losses[name] = {line["step"]: line["loss"] for line in map(json.loads, lines) if "loss" in line}
    assert losses["folder"] == losses["other"] and len(losses["other"]) == 4
