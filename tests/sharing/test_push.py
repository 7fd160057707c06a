"""Models and databases by hf:// addresses, wherever one is named: pushed, opened, refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdm_jax.bundle import CONFIG, Bundle, locate
from rdm_jax.cli.main import main
from rdm_jax.core.errors import UserError
from rdm_jax.evaluation.features.image_sets import open_images
from rdm_jax.retrieval.attribution import cell
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.manifest import BUNDLE, MANIFEST
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.sharing.push import push
from rdm_jax.training.export import run_or_model
from tests.helpers import tiny, tiny_run
from tests.helpers.hub_client import connect, new_process
from tests.helpers.hub_server import TOKEN, Hub, folder_files, serving

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's connection


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a database of it."""
    folder = tmp_path_factory.mktemp("home")
    tiny.bundle().save(folder / "model", "float32")
    tiny.database(folder, "one", Bundle.open(folder / "model"))
    manifest = json.loads((folder / "one" / MANIFEST).read_text())
    (folder / "one" / MANIFEST).write_text(json.dumps({**manifest, BUNDLE: "/home/me/secret/model"}))
    return folder


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_environment: None) -> Iterator[Hub]:
    with serving() as running:
        connect(monkeypatch, running, tmp_path)
        yield running
        new_process()


@pytest.fixture
def shared(server: Hub, home: Path) -> Hub:
    """The server with the model and the database on it."""
    server.add("models", "me/tiny", folder_files(home / "model"))
    server.add("datasets", "me/one", folder_files(home / "one"))
    return server


def test_a_pushed_model_is_the_same_elsewhere(server: Hub, home: Path, capsys: pytest.CaptureFixture):
    assert main(["push", str(home / "model"), "hf://me/tiny", "--license", "mit", "--private"]) == 0
    assert "hf://me/tiny: http://127.0.0.1" in capsys.readouterr().err
    repository = server.repositories["models", "me/tiny"]
    files = repository.files("main") or {}
    assert repository.private and repository.messages[-1] == "Upload model by rdm push"
    assert {name: files[name] for name in folder_files(home / "model")} == folder_files(home / "model")
    assert b"license: mit" in files["README.md"] and b"--model hf://me/tiny" in files["README.md"]
    opened, original = Bundle.open("hf://me/tiny"), Bundle.open(home / "model")
    assert opened.hashes == original.hashes and opened.config == original.config
    assert opened.path is not None and not (opened.path / "README.md").exists()


def test_a_pushed_database_is_the_same_elsewhere_and_names_no_folder_of_this_machine(
    server: Hub, home: Path, tmp_path: Path
):
    assert main(["push", str(home / "one"), "hf://me/one"]) == 0
    written = (server.repositories["datasets", "me/one"].files("main") or {})["README.md"].decode()
    assert "--database hf://me/one" in written and not server.repositories["datasets", "me/one"].private
    (tmp_path / "card.md").write_text("---\nlicense: mit\n---\nMine.\n")
    assert main(["push", str(home / "one"), "hf://me/one@draft", "--card", str(tmp_path / "card.md")]) == 0
    files = server.repositories["datasets", "me/one"].files("draft") or {}
    assert files["README.md"] == b"---\nlicense: mit\n---\nMine.\n"
    assert not any(b"secret" in data for data in files.values())
    opened, original = Database.open("hf://me/one@draft"), Database.open(home / "one")
    assert opened.digest == original.digest and opened.items(range(len(opened))) == original.items(range(len(original)))
    opened.verify()


@pytest.mark.slow
def test_a_model_that_takes_parts_of_an_embedded_one_is_shared_without_them(server: Hub):
    push("style-scenes-fast", "hf://me/fast")
    files = server.repositories["models", "me/fast"].files("main") or {}
    assert files.keys() == {".gitattributes", "README.md", CONFIG, "denoiser.safetensors", "tokenizer.json"}
    assert Bundle.open("hf://me/fast").digest == Bundle.open("style-scenes-fast").digest


def test_what_is_damaged_or_neither_is_not_pushed(server: Hub, home: Path, tmp_path: Path):
    for source, name in (("model", "denoiser.safetensors"), ("one", "items-00000-of-00001.parquet")):
        copy = tmp_path / source
        copy.mkdir()
        for path, data in folder_files(home / source).items():
            (copy / path).write_bytes(data if path != name else data[:-1] + b"x")
        with pytest.raises(UserError, match=f"damaged .* the SHA-256 of {name} is not"):
            push(str(copy), "hf://me/damaged")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is neither a model nor a database"):
        push(str(tmp_path / "empty"), "hf://me/x")
    with pytest.raises(UserError, match="my-model is no address of the Hub"):
        push(str(home / "model"), "my-model")
    assert not server.requests


def test_wherever_a_model_or_a_database_is_named_it_may_be_an_address(shared: Hub, home: Path):
    assert locate("hf://me/tiny") == locate("hf://me/tiny@main")
    assert run_or_model("hf://me/tiny").hashes == Bundle.open(home / "model").hashes
    weighted = Mixture.open(["hf://me/one:2"])
    assert weighted.weights == [2] and weighted.databases[0].name == "one"
    assert len(open_images("hf://me/one")) == len(Database.open(home / "one"))


COMMANDS = (
    "database info hf://me/one",
    "database verify hf://me/one",
    "database search hf://me/one boat --encoder hf://me/tiny",
    "database search hf://me/one@main boat --encoder hf://me/tiny@main",
    "database subset hf://me/one --limit 2 --out subset",
    "database merge hf://me/one --out merged",
    "database build images --encoder hf://me/tiny --out built",
    "neighbors --dataset ./images --database hf://me/one --encoder hf://me/tiny --k 1 --out neighbors",
    "export hf://me/tiny --out exported",
    pytest.param("evaluate images images --reference hf://me/one --metrics kid --out measured", marks=pytest.mark.slow),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_take_addresses(shared: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str):
    from tests.retrieval.conftest import write_images

    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", 20, size=(20, 20))
    assert main(command.split()) == 0
    assert not any("README" in path for _, path, _ in shared.requests)


def test_converting_back_opens_the_address(shared: Hub, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["convert", "hf://me/tiny", "--to", "compvis", "--out", str(tmp_path / "original")]) == 2
    assert "have 32 groups in every group norm; this model cannot be written" in capsys.readouterr().err


@pytest.mark.slow
def test_a_trained_model_is_shared_with_its_record_and_trained_further(server: Hub, tmp_path: Path):
    images = tmp_path / "my photos"
    images.mkdir()
    for split in ("train", "validation"):
        tiny_run.write_images(images / split)
    settings = {"steps": 2, "eval_every": 2, "data.split": "train", "data.held_out": "validation"}
    first = tiny_run.command(images, tmp_path, tmp_path / "run", settings)
    assert main(first) == 0
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "model"), "--license", "cc0-1.0"]) == 0
    record = Bundle.open(tmp_path / "model").config["training"]["autoencoder"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    measured = {key: value for line in map(json.loads, lines) for key, value in line.items() if key.startswith("eval/")}
    assert record["data"] == "my photos train" and record["measured_at"] == 2
    assert {f"eval/{name}": value for name, value in record["results"].items()} == measured and measured
    push(str(tmp_path / "model"), "hf://me/trained")
    card = (server.repositories["models", "me/trained"].files("main") or {})["README.md"].decode()
    assert "license: cc0-1.0" in card and "| autoencoder | my photos train | not recorded | 2 | 4 | 0 |" in card
    for name, value in record["results"].items():
        assert f"| autoencoder | {cell(name)} | {value:.6g} | 2 |" in card
    assert str(tmp_path) not in card
    further = tiny_run.command(images, tmp_path, tmp_path / "further", {"steps": 1})
    assert main([*further, "--init-from", "hf://me/trained"]) == 0


@pytest.mark.slow
def test_sampling_editing_and_the_studio_take_addresses(shared: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from rdm_jax.studio.places import Places
    from rdm_jax.studio.workshop import Workshop

    monkeypatch.chdir(tmp_path)
    common = ["--model", "hf://me/tiny", "--database", "hf://me/one", "--seed", "0", "--num-images", "1"]
    assert main(["sample", "a red boat", *common, "--out", "sampled"]) == 0
    image = next(Path("sampled").glob("*.png"))
    assert main(["replay", str(image), "--model", "hf://me/tiny", "--database", "hf://me/one"]) == 0
    vary = ["edit", "img2img", "--image", str(image), "--prompt", "a red boat", *common, "--out", "edited"]
    assert main(vary) == 0
    workshop = Workshop(Places(tmp_path / "studio").create(), ["hf://me/tiny"])
    assert workshop.config(workshop.default_model)["name"] == "tiny"


@pytest.mark.parametrize(
    "command",
    [
        ["database", "remove", "hf://me/one", "--where", "path=x"],
        ["database", "tune", "hf://me/one", "--encoder", "hf://me/tiny"],
        ["database", "build", "{images}", "--append", "--out", "hf://me/one"],
    ],
)
def test_what_would_change_the_cache_is_refused(shared: Hub, capsys: pytest.CaptureFixture, command: list[str]):
    assert main(command) == 2
    assert "hf://me/one is no local folder; use a local one and copy it afterwards" in capsys.readouterr().err


def test_a_repository_of_pickles_is_refused_by_a_command(server: Hub, capsys: pytest.CaptureFixture):
    server.add("models", "me/old", {"model.ckpt": b"\x80\x04.", CONFIG: b"{}"})
    assert main(["sample", "a red boat", "--model", "hf://me/old"]) == 2
    line = capsys.readouterr().err.strip().split("\n")[-1]
    assert line == (
        "rdm: error: hf://me/old holds model.ckpt in place of a model bundle, and pickles are never loaded; download "
        "it and convert it by `rdm convert`"
    )


OBSERVED = """
import json, os, sys

seen = []

def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        address = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        if not isinstance(address, (str, bytes)) or event.startswith("socket.get"):  # a text is a local socket
            seen.append([event, str(address)])

sys.addaudithook(hook)
from rdm_jax.cli.main import main

status = [main(command) for command in json.loads(sys.argv[1])]
print("\\n" + json.dumps({"status": status, "seen": seen}))
"""


def observed(commands: list[list[str]], **environment: str) -> dict[str, Any]:
    """Returns the exit statuses of commands in a process of their own, and its connections."""
    run = subprocess.run(
        [sys.executable, "-c", OBSERVED, json.dumps(commands)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.strip().rpartition("\n")[2])


@pytest.mark.slow
def test_nothing_contacts_the_network_without_an_address(server: Hub, home: Path, tmp_path: Path):
    """Also not by a library: an audit hook of Python sees every connection, and sees the one to the Hub."""
    from tests.retrieval.conftest import write_images

    pytest.importorskip("huggingface_hub")
    server.add("datasets", "me/one", folder_files(home / "one"))
    images = str(write_images(tmp_path / "images", 20, size=(20, 20)))
    model, database, out = str(home / "model"), str(home / "one"), str(tmp_path / "out")
    commands = [
        ["env"],
        ["database", "list"],
        ["sample", "boat", "--model", model, "--database", images, "--num-images", "1", "--out", f"{out}-images"],
        ["evaluate", "images", images, "--reference", database, "--metrics", "kid", "--out", f"{out}-measured"],
        ["export", model, "--out", f"{out}-model"],
    ]
    environment = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN}
    quiet = observed(commands, **environment)
    assert quiet == {"status": [0] * len(commands), "seen": []} and not server.requests
    loud = observed([["database", "info", "hf://me/one"]], **environment)
    assert loud["status"] == [0]
    host, _, port = server.url.removeprefix("http://").partition(":")
    assert {tuple(one) for one in loud["seen"] if one[0] == "socket.connect"} == {
        ("socket.connect", str((host, int(port))))
    }
    assert (tmp_path / "hf" / "hub" / "datasets--me--one").is_dir()  # HF_ENDPOINT and HF_HOME are the library's own
    offline = observed([["database", "info", "hf://me/one"]], **environment, HF_HUB_OFFLINE="1")
    assert offline == {"status": [0], "seen": []}


def test_neighbors_come_from_a_downloaded_database_as_from_the_local_one(shared: Hub, home: Path):
    near, local = Database.open("hf://me/one"), Database.open(home / "one")
    np.testing.assert_array_equal(near.embeddings(range(len(near))), local.embeddings(range(len(local))))
