"""What `rdm sample` writes for designers: SVG, transparency, sizes, files named by word, and who is to be named."""

from __future__ import annotations

import functools
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdm_jax.cli import run_folder
from rdm_jax.core import files as core_files
from rdm_jax.data.examples import Example
from rdm_jax.generator import Generator
from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.encoder import ClipEncoder
from tests.helpers import tiny
from tests.helpers.shapes import BLACK, BLUE, YELLOW, disk, painted, rectangle

pytest.importorskip("vtracer")

WORDS = "rocket\nPaper plane\n# arrows\n\nrocket\n#\n../up\n"
NAMES = ["icon", "paper-plane", "rocket", "rocket-2", "up"]
SHEETS = ["ATTRIBUTION.md", "contact_sheet.png", "neighbor_sheet.png", "run.json"]


class Icons:
    """A source of icons of given colors with an author and a license."""

    def __init__(self, name, *colors):
        self.name, self.captions, self.fingerprint = name, "names", name.encode().hex().zfill(64)
        shapes = [rectangle(2, 2 + i, 13, 9 + i, 16) for i in range(5)]
        inner = disk(16, (8, 8), 3)
        self._images = [painted((shape, colors[0]), *((inner, color) for color in colors[1:])) for shape in shapes]

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        labels = {"set": self.name, "author": "Ann Author", "license": "CC-BY-4.0"}
        return Example(self._images[index], f"{self.name} {index}", f"{index:03d}.png", labels)

    @property
    def shard_lengths(self):
        return (len(self),)

    def labels(self, index):
        return {"caption": f"{self.name} {index}", "path": f"{index:03d}.png"}


class Noise(Icons):
    """A source of images with no color in common."""

    def __init__(self, name):
        super().__init__(name, BLACK)
        self._images = list(np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def sets(home, load):
    """Databases of the model: line (one color), flat (two), soft."""
    encoder = ClipEncoder(load(home / "model").bundle, batch_size=8)
    for source in (Icons("line", BLACK), Icons("flat", BLUE, YELLOW), Noise("soft")):
        job = BuildJob.of(source, encoder, BuildOptions(name=source.name, thumbnail_size=16, quality=100))
        build_database(job, home / source.name)
    return home


@pytest.fixture
def sample(rdm, sets):
    def run(*arguments, database="line"):
        seed = [] if "--seed" in arguments else ["--seed", 7]
        return rdm("sample", *arguments, "--database", sets / database, *seed, defaults=("--model",))

    return run


@pytest.fixture
def words(rdm):
    Path("words.txt").write_text(WORDS)
    return "words.txt"


def files(folder="outputs"):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def pixels(path):
    return np.asarray(Image.open(path))


def run_record(folder="outputs"):
    return json.loads(Path(folder, "run.json").read_text())


@pytest.mark.slow
def test_an_svg_is_beside_each_image(sample):
    assert sample("a red boat", "--svg", "--num-images", 2) == 0
    assert {"00000-7.png", "00000-7.svg", "00001-7.svg"} < set(files())
    assert "viewBox" in Path("outputs/00000-7.svg").read_text()
    assert [image["svg"] for image in run_record()["images"]] == ["00000-7.svg", "00001-7.svg"]
    assert pixels("outputs/00000-7.png").shape == (16, 16, 3)


@pytest.mark.slow
def test_the_colors_are_those_of_the_database(sample):
    assert sample("a red boat", "--svg", database="flat") == 0
    found = re.findall(r"#(\w{6})", Path("outputs/00000-7.svg").read_text())
    allowed = {bytes(color).hex() for color in (BLUE, YELLOW, (255, 255, 255))}
    assert set(found) <= allowed
    assert sample("a red boat", "--svg", "--out", "line") == 0
    assert not re.findall(r"#(\w{6})", Path("line/00000-7.svg").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "shape", "database"), [
    (["--transparent"], (16, 16, 4), "line"),
    (["--transparent"], (16, 16, 4), "flat"),
    (["--size", 48], (48, 48, 3), "flat"),
    (["--size", 24, "--transparent", "--svg"], (24, 24, 4), "line"),
])  # fmt: skip
def test_every_option_is_recorded_and_replayed(sample, rdm, sets, capsys, arguments, shape, database):
    assert sample("a red boat", "a tree", *arguments, database=database) == 0
    assert pixels("outputs/00001-7.png").shape == shape
    capsys.readouterr()
    assert rdm("replay", "outputs/00001-7.png", "--database", sets / database, defaults=("--model",)) == 0
    assert "identical to the image in the file" in capsys.readouterr().err
    assert Path("outputs/00001-7-replay.svg").exists() == ("--svg" in arguments)
    if "--svg" in arguments:
        assert Path("outputs/00001-7-replay.svg").read_bytes() == Path("outputs/00001-7.svg").read_bytes()


@pytest.mark.slow
def test_images_of_words_have_their_names(sample, words):
    assert sample("--from-file", words, "--svg", "--transparent") == 0
    assert files() == sorted([*SHEETS, *(f"{name}.{suffix}" for name in NAMES for suffix in ("png", "svg"))])
    by_word = {image["file"]: image["prompt"] for image in run_record()["images"]}
    assert by_word["paper-plane.png"] == "Paper plane"
    assert by_word["icon.png"] == "#"


def test_images_of_words_are_those_of_prompts(sample, words):
    assert sample("--from-file", words) == 0
    assert sample("rocket", "Paper plane", "rocket", "#", "../up", "--out", "numbered") == 0
    for number, name in enumerate(["rocket", "paper-plane", "rocket-2", "icon", "up"]):
        assert np.array_equal(pixels(f"outputs/{name}.png"), pixels(f"numbered/0000{number}-7.png"))


def test_no_sheet_has_the_name_of_a_word(sample):
    Path("words.txt").write_text("grid\nneighbors\nrun\ncontact sheet\nattribution\n")
    assert sample("--from-file", "words.txt", "--svg") == 0
    for name in ("grid", "neighbors", "run", "contact-sheet", "attribution"):
        assert pixels(f"outputs/{name}.png").shape == (16, 16, 3)
    assert run_record()["complete"]


def test_the_contact_sheet_has_the_new_icons_beside_existing_ones(sample, words, sets):
    assert sample("--from-file", words) == 0
    sheet = pixels("outputs/contact_sheet.png")
    big = np.repeat(np.repeat(pixels("outputs/rocket.png"), 8, 0), 8, 1)
    height, width = sheet.shape[:2]
    corners = [
        (y, x)
        for y, x in itertools.product(range(height - 127), range(width - 127))
        if np.array_equal(sheet[y, x : x + 128], big[0]) and np.array_equal(sheet[y : y + 128, x : x + 128], big)
    ]
    assert corners and all(x < width / 2 for _, x in corners)


def test_who_made_the_neighbors_is_named(sample, words):
    assert sample("--from-file", words) == 0
    text = Path("outputs/ATTRIBUTION.md").read_text()
    used = {one["path"] for image in run_record()["images"] for one in image["neighbors"]}
    assert "| line | Ann Author | CC-BY-4.0 |" in text
    for index in range(5):
        assert (f"line {index}" in text) == (f"{index:03d}.png" in used)


def test_a_database_without_licenses_is_named(rdm):
    assert rdm("sample", "a red boat", "--seed", 7) == 0
    assert "## one\n\nNo license is recorded" in Path("outputs/ATTRIBUTION.md").read_text()


def test_without_a_database_the_colors_are_those_of_the_image(rdm):
    arguments = ["a red boat", "--condition", "text", "--seed", 7, "--svg"]
    assert rdm("sample", *arguments, defaults=("--model",)) == 0
    assert Path("outputs/00000-7.svg").exists()
    assert "No neighbors were used" in Path("outputs/ATTRIBUTION.md").read_text()


def test_an_interrupted_run_is_resumed(sample, words, monkeypatch, capsys):
    run = functools.partial(sample, "--from-file", words, "--svg", "--batch-size", 2)
    assert run("--out", "whole") == 0
    generate = Generator.generate

    def interrupted(self, *arguments):
        yield next(generate(self, *arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(Generator, "generate", interrupted)
    assert run() == 130
    assert not run_record()["complete"]
    before = Path("outputs/rocket.png").read_bytes()
    monkeypatch.setattr(Generator, "generate", generate)
    assert run("--resume") == 0
    assert "2 of 5 images are there already" in capsys.readouterr().err
    assert files() == files("whole")
    assert Path("outputs/rocket.png").read_bytes() == before
    assert run_record()["complete"]
    key = functools.partial(sorted, key=lambda image: image["index"])
    assert [image["file"] for image in key(run_record()["images"])] == [
        image["file"] for image in key(run_record("whole")["images"])
    ]
    for name in NAMES:
        difference = np.abs(pixels(f"outputs/{name}.png").astype(int) - pixels(f"whole/{name}.png"))
        assert difference.max() <= 2
    assert run("--resume") == 0
    assert "5 of 5 images are there already" in capsys.readouterr().err


def test_images_after_the_last_record_are_kept_on_resuming(sample, words, monkeypatch, capsys):
    run = functools.partial(sample, "--from-file", words, "--svg", "--batch-size", 1)
    write, written = core_files.write_bytes, []

    def full(path, data, **options):
        written.append(path)
        if path.name == "rocket-2.png":
            raise OSError(28, "No space left on device")
        if not (path.name == run_folder.RUN and len(written) > 6):  # the last record is lost as well
            write(path, data, **options)

    monkeypatch.setattr(core_files, "write_bytes", full)
    assert run() == 2
    monkeypatch.setattr(core_files, "write_bytes", write)
    assert len(run_record()["images"]) < 2
    assert Path("outputs/rocket-2.svg").exists()
    assert run("--resume") == 0
    assert "2 of 5 images are there already" in capsys.readouterr().err
    assert run_record()["complete"] and len(run_record()["images"]) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "outputs holds no run to resume"),
        (["--out", "done", "--resume", "--guidance-scale", "3"], "the run in done has another value of guidance scale"),
        (["--out", "done", "--resume", "--seed", "8"], "the run in done has another value of seed"),
        (["--out", "done", "--resume", "--svg"], "the run in done has another value of renditions"),
        (["--size", "50"], "argument --size: invalid choice: '50'"),
    ],
)
def test_bad_input_is_one_line(sample, capsys, arguments, message):
    assert sample("a red boat", "--out", "done") == 0
    capsys.readouterr()
    before = files(".")
    assert sample("a red boat", *arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert files(".") == before


def test_soft_colors_are_not_made_transparent(sample, capsys):
    assert sample("a red boat", "--transparent", database="soft") == 2
    assert "the images of database 'soft' have soft colors" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("outputs").exists()


def test_transparency_needs_a_database(rdm, capsys):
    arguments = ["a red boat", "--condition", "text", "--transparent"]
    assert rdm("sample", *arguments, defaults=("--model",)) == 2
    assert "which --transparent needs" in capsys.readouterr().err.splitlines()[-1]


def test_a_model_with_one_role_has_no_content_database(sample, sets, capsys):
    assert sample("a red boat", "--content-database", sets / "flat") == 2
    assert "one role of neighbors" in capsys.readouterr().err.splitlines()[-1]
    assert tiny.CONFIG["conditioning"]["neighbors"] == 2
