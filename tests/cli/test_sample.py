"""`rdm sample` and `rdm replay` on a tiny random model, through the command line's front door."""

from __future__ import annotations

import functools
import getpass
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdm_jax import bundle
from rdm_jax.bundle import Bundle
from rdm_jax.core import files as core_files
from rdm_jax.generator import Generator
from rdm_jax.heads.diffusion.few_steps import Distilled
from tests.helpers import tiny

IMAGES = [f"0000{i}-7.png" for i in range(4)]


@pytest.fixture
def sample(rdm):
    return functools.partial(rdm, "sample")


def files(folder="outputs"):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def pixels(path):
    return np.asarray(Image.open(path))


def test_a_run_writes_images_sheets_and_its_record(sample, capsys):
    assert sample("a red boat", "a blue tree", "--num-images", 2, "--seed", 7) == 0
    assert files() == [*IMAGES, "ATTRIBUTION.md", "grid.png", "neighbors.png", "run.json"]
    printed = capsys.readouterr()
    assert printed.out == "outputs\n"
    assert "seed 7" in printed.err
    run = json.loads(Path("outputs/run.json").read_text())
    assert run["complete"]
    assert run["prompts"] == ["a red boat", "a blue tree"]
    assert run["options"]["steps"] == 4
    assert [image["prompt"] for image in run["images"]] == ["a red boat"] * 2 + ["a blue tree"] * 2
    assert [image["file"] for image in run["images"]] == IMAGES
    for image in run["images"]:
        scores = [neighbor["score"] for neighbor in image["neighbors"]]
        assert len(scores) == 2
        assert scores == sorted(scores, reverse=True)
        assert all(re.fullmatch(r"squares/\d+\.png", neighbor["path"]) for neighbor in image["neighbors"])
    assert run["databases"][0]["rows"] == 12
    assert set(run["model"]["parts"]) == {"clip", "autoencoder", "denoiser", "tokenizer"}


def test_images_are_those_of_the_python_interface(sample, home, load):
    sample("a red boat", "a blue tree", "--num-images", 2, "--seed", 7)
    result = load(home / "model").sample(["a red boat", "a blue tree"], database=home / "one", num_images=2, seed=7)
    for index, image in enumerate(result.images):
        assert np.array_equal(pixels(f"outputs/{index:05d}-7.png"), image)


@pytest.mark.slow
def test_each_of_several_databases_has_a_folder_and_the_same_seeds(sample, home):
    assert sample("a red boat", "--database", home / "two", "--num-images", 2, "--seed", 7) == 0
    written = ["00000-7.png", "00001-7.png", "neighbors.png"]
    assert files() == [
        "ATTRIBUTION.md",
        "grid.png",
        *(f"one/{file}" for file in written),
        "run.json",
        *(f"two/{file}" for file in written),
    ]
    run = json.loads(Path("outputs/run.json").read_text())
    assert [image["database"] for image in run["images"]] == ["one"] * 2 + ["two"] * 2
    sample("a red boat", "--num-images", 2, "--seed", 7, "--out", "alone")
    assert np.array_equal(pixels("outputs/one/00001-7.png"), pixels("alone/00001-7.png"))


@pytest.mark.slow
def test_fast_selects_the_few_step_model_that_ships_for_a_model(sample, home, capsys, monkeypatch, tmp_path):
    assert sample("a red boat", "--fast") == 2
    assert "no few-step model of" in capsys.readouterr().err
    monkeypatch.setattr(bundle, "EMBEDDED", tmp_path)
    model = Bundle.open(home / "model")
    settings = {**model.config["sampling"], "spacing": "trailing", "steps": 2, "guidance_scale": 1.0}
    made = Distilled(
        teacher="full", method="progressive", sampler="ddim", spacing="trailing", steps=2, guidance_scale=2.0
    )
    model.save(tmp_path / "full", "float32")
    few = {**model.config, "name": "few", "sampling": settings, "distillation": made.section()}
    Bundle(few, model.params, model.tokenizer).save(tmp_path / "few", "float32", parts_of="full")
    chosen = ["--database", home / "one", "--seed", 7]
    for name in ("full", "few"):
        assert sample("a red boat", "--fast", "--model", name, *chosen, "--out", name, defaults=()) == 0
        run = json.loads(Path(name, "run.json").read_text())
        assert (run["model"]["name"], run["options"]["steps"]) == ("few", 2)
    assert "warning" not in capsys.readouterr().err


def test_nothing_is_overwritten(sample):
    for _ in range(3):
        assert sample("a red boat", "--num-images", 4, "--seed", 7) == 0
    assert {name.split("/")[0] for name in files() if "/" in name} == {"run-002", "run-003"}
    assert np.array_equal(pixels("outputs/00000-7.png"), pixels("outputs/run-002/00000-7.png"))


def test_a_random_seed_is_printed_and_recorded(sample, capsys):
    assert sample("a red boat", "--num-images", 4) == 0
    seed = int(re.search(r"seed (\d+)", capsys.readouterr().err)[1])
    assert json.loads(Path("outputs/run.json").read_text())["request"]["seed"] == seed
    assert Path(f"outputs/00000-{seed}.png").exists()


def test_replay_generates_each_image_again_bit_for_bit(sample, rdm, capsys):
    sample("a red boat", "a blue tree", "a tree", "--num-images", 2, "--batch-size", 4, "--seed", 7)
    for index in (1, 4):
        assert rdm("replay", f"outputs/0000{index}-7.png") == 0
        printed = capsys.readouterr()
        assert "identical to the image in the file" in printed.err
        assert printed.out.endswith(f"0000{index}-7-replay.png\n")
        original, again = Path(f"outputs/0000{index}-7.png"), Path(f"outputs/0000{index}-7-replay.png")
        assert np.array_equal(pixels(original), pixels(again))
        assert Image.open(original).text["parameters"] == Image.open(again).text["parameters"]
    assert rdm("replay", "outputs/00001-7.png") == 0
    assert Path("outputs/00001-7-replay-2.png").exists()


@pytest.mark.slow
def test_half_precision_is_recorded_and_replayed(sample, rdm, capsys):
    for dtype in ("float32", "bfloat16"):
        assert sample("a red boat", "--seed", 7, "--dtype", dtype, "--out", dtype) == 0
        assert json.loads(Path(dtype, "run.json").read_text())["model"]["dtype"] == dtype
    one, other = (pixels(f"{dtype}/00000-7.png").astype(int) for dtype in ("float32", "bfloat16"))
    assert 0 < np.abs(one - other).mean() < 8
    capsys.readouterr()
    assert rdm("replay", "bfloat16/00000-7.png") == 0
    assert "identical to the image in the file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_setting_of_the_model_may_be_changed_and_is_replayed(sample, rdm, capsys):
    for name, change in (("own", "false"), ("unit", "true")):
        assert sample("a red boat", "--seed", 7, "--set", f"conditioning.unit_tokens={change}", "--out", name) == 0
    assert not np.array_equal(pixels("own/00000-7.png"), pixels("unit/00000-7.png"))
    assert json.loads(Path("unit/run.json").read_text())["model"]["overrides"] == ["conditioning.unit_tokens=true"]
    capsys.readouterr()
    assert rdm("replay", "unit/00000-7.png") == 0
    assert "identical to the image in the file" in capsys.readouterr().err


def test_replay_of_an_image_query_needs_no_image(sample, rdm, capsys):
    Image.fromarray(tiny.Squares(12, 0)[3].image).save("secret-name.png")
    assert sample("--image", "secret-name.png", "--num-images", 4, "--seed", 7) == 0
    Path("secret-name.png").unlink()
    assert rdm("replay", "outputs/00002-7.png", "--out", "new/again.png") == 0
    assert "identical" in capsys.readouterr().err
    assert np.array_equal(pixels("outputs/00002-7.png"), pixels("new/again.png"))
    assert "secret" not in Path("outputs/run.json").read_text()
    assert rdm("replay", "outputs/00002-7.png", "--out", "new/again.png") == 2
    assert "not overwritten" in capsys.readouterr().err


def test_databases_with_weights_are_searched_together(sample, rdm, home, capsys):
    mixed = ["--database", f"{home / 'one'}:3", "--database", f"{home / 'two'}:1", "--seed", 7, "--neighbors", 4]
    assert rdm("sample", "a red boat", *mixed, "--out", "mixed", defaults=("--model",)) == 0
    assert sorted(path.name for path in Path("mixed").iterdir()) == [
        "00000-7.png", "ATTRIBUTION.md", "grid.png", "neighbors.png", "run.json",
    ]  # fmt: skip
    run = json.loads(Path("mixed/run.json").read_text())
    assert run["databases"][0]["name"] == "one:3+two:1" and run["databases"][0]["rows"] == 24
    found = [neighbor["database"] for neighbor in run["images"][0]["neighbors"]]
    assert sorted(found) == ["one"] * 3 + ["two"]
    capsys.readouterr()
    places = ["--database", f"{home / 'one'}:3", "--database", f"{home / 'two'}:1"]
    assert rdm("replay", "mixed/00000-7.png", *places, defaults=("--model",)) == 0
    assert "identical to the image in the file" in capsys.readouterr().err


def test_replay_with_another_database_warns(sample, rdm, home, capsys):
    sample("a red boat", "--num-images", 4, "--seed", 7)
    assert rdm("replay", "outputs/00000-7.png", "--database", home / "two", defaults=("--model",)) == 0
    printed = capsys.readouterr().err
    assert "warning: this database 'two'" in printed
    assert "differs by at most" in printed


def test_records_name_no_place_and_no_user(sample, home, monkeypatch):
    monkeypatch.setenv("LOGNAME", "some-user")
    assert getpass.getuser() == "some-user"
    sample("a red boat", "--num-images", 4, "--seed", 7, "--out", "somewhere")
    text = Image.open("somewhere/00000-7.png").text
    assert set(text) == {"parameters", "rdm"}
    for secret in (str(home), str(Path.cwd()), "some-user", "somewhere"):
        assert secret not in text["parameters"] + text["rdm"]
        assert secret not in Path("somewhere/run.json").read_text()


def test_metadata_can_be_left_out(sample):
    sample("a red boat", "--num-images", 4, "--seed", 7, "--disable-metadata")
    assert not Image.open("outputs/00000-7.png").text


def test_prompts_from_a_file(sample, monkeypatch):
    Path("prompts.txt").write_text("\ufeffa red boat\n\n  a blue tree \n", encoding="utf-8")
    assert sample("--from-file", "prompts.txt", "--num-images", 2, "--seed", 7) == 0
    assert json.loads(Path("outputs/run.json").read_text())["prompts"] == ["a red boat", "a blue tree"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("a tréé\u2028 of one line\r\na boat".encode())))
    assert sample("--from-file", "-", "--num-images", 2, "--seed", 7, "--out", "piped") == 0
    assert json.loads(Path("piped/run.json").read_text())["prompts"] == ["a tréé\u2028 of one line", "a boat"]


def test_text_alone_generates_without_neighbors(rdm, home):
    assert rdm("sample", "a red boat", "--condition", "text", "--num-images", 4, defaults=("--model",)) == 0
    assert "neighbors.png" not in files()
    run = json.loads(Path("outputs/run.json").read_text())
    assert run["databases"] == []
    file = next(name for name in files() if name.startswith("00003"))
    assert rdm("replay", f"outputs/{file}", defaults=("--model",)) == 0


def test_a_model_conditioned_on_text_needs_no_database(rdm, home, tmp_path):
    shutil.copytree(home / "model", tmp_path / "by-text")
    config = json.loads((tmp_path / "by-text/config.json").read_text())
    config["sampling"]["condition"] = "text"
    (tmp_path / "by-text/config.json").write_text(json.dumps(config))
    assert rdm("sample", "a red boat", "--model", "by-text", "--num-images", 4, defaults=()) == 0
    assert json.loads(Path("outputs/run.json").read_text())["databases"] == []


@pytest.mark.parametrize("name", ["items-00000-of-00001.parquet", "thumbnails-00000-of-00001.array_record"])
def test_a_damaged_database_fails_before_anything_is_generated(rdm, home, tmp_path, capsys, name):
    shutil.copytree(home / "one", tmp_path / "damaged")
    data = (tmp_path / "damaged" / name).read_bytes()
    (tmp_path / "damaged" / name).write_bytes(data[: len(data) // 2])
    assert rdm("sample", "a red boat", "--database", "damaged", defaults=("--model",)) == 2
    assert re.search(rf"rdm: error: damaged database .*{name}", capsys.readouterr().err)
    assert not Path("outputs").exists()


def test_the_spellings_of_other_tools(sample):
    arguments = ["--prompt", "a red boat", "--n_samples", 4, "--ddim_steps", 8, "--ddim_eta", 0.0, "--scale", 3.0]
    assert sample(*arguments, "--H", 16, "--W", 16, "--knn", 2, "--outdir", "o", "--seed", 7, "--skip_grid") == 0
    run = json.loads(Path("o/run.json").read_text())
    settings = {**run["request"], **run["options"]}
    assert (settings["steps"], settings["guidance_scale"], settings["num_images"]) == (8, 3.0, 4)
    assert "grid.png" not in files("o")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--plms"], {"sampler": "plms"}),
        (["--only_caption"], {"condition": "text", "neighbors": 0}),
        (["--omit_query", "--k_nn", 3], {"condition": "neighbors", "neighbors": 3}),
        (["--use_neighbors", "--k_nn", 3], {"condition": "text+neighbors", "neighbors": 2}),
    ],
)
@pytest.mark.slow
def test_compvis_flags_set_what_they_mean(sample, arguments, expected):
    assert sample("a red boat", *arguments, "--seed", 7, "--out", "o") == 0
    run = json.loads(Path("o/run.json").read_text())
    settings = {**run["request"], **run["options"]}
    assert {name: settings[name] for name in expected} == expected


def test_rows_of_the_database_are_queries_where_there_is_no_prompt(sample, rdm, capsys, home):
    assert sample("--proposals", 2, "--num-images", 2, "--seed", 7) == 0
    run = json.loads(Path("outputs/run.json").read_text())
    assert run["request"]["condition"] == "neighbors" and len(run["images"]) == 4
    first = {image["prompt"]: image["neighbors"] for image in run["images"]}
    assert len(first) == 2
    for label, neighbors in first.items():
        assert label == f"row {neighbors[0]['id']}" and neighbors[0]["score"] > 0.999  # a row finds itself
    capsys.readouterr()
    assert rdm("replay", "outputs/00002-7.png") == 0
    assert "identical" in capsys.readouterr().err
    assert sample("a red boat", "--unconditional", "--seed", 7, "--out", "both") == 0
    prompts = [image["prompt"] for image in json.loads(Path("both/run.json").read_text())["images"]]
    assert prompts == ["a red boat", next(iter(first))]


@pytest.mark.slow
def test_rows_are_sampled_by_how_often_they_were_neighbors(sample, home, tmp_path, monkeypatch, capsys):
    from rdm_jax.retrieval import proposals

    opened = []
    monkeypatch.setattr(proposals, "count_neighbors", lambda sidecar, database: np.arange(len(database)))
    monkeypatch.setattr("rdm_jax.retrieval.sidecar.NeighborSidecar.open", lambda path: opened.append(path))
    options = ("--proposals", 3, "--counts", "near", "--seed", 7)
    for m, allowed in ((2, {10, 11}), (0.01, {11})):
        assert sample(*options, "--top_m", m, "--use_weights", "--out", f"m{m}") == 0
        images = json.loads(Path(f"m{m}/run.json").read_text())["images"]
        assert {int(image["prompt"].removeprefix("row ")) for image in images} <= allowed
    assert opened == ["near"] * 2
    assert sample("a red boat", "--top_m", 0.01, "--seed", 7, "--out", "none") == 0
    assert "warning: --top-m applies to --proposals" in capsys.readouterr().err


def test_an_interrupted_run_keeps_its_images_and_records_that_it_is_incomplete(sample, home, load, monkeypatch):
    generate = Generator.generate

    def interrupted(self, *arguments):
        yield next(generate(self, *arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(Generator, "generate", interrupted)
    assert sample("a red boat", "--num-images", 8, "--batch-size", 4, "--seed", 7) == 130
    assert files() == [*IMAGES, "ATTRIBUTION.md", "run.json"]
    run = json.loads(Path("outputs/run.json").read_text())
    assert not run["complete"]
    assert len(run["images"]) == 4


def test_a_full_disk_is_named_and_leaves_the_images_with_their_record(sample, capsys, monkeypatch):
    write, written = core_files.write_bytes, []

    def full(path, data, **options):
        written.append(path)
        if len(written) > 7:  # the empty record, four images, their record, one image more
            raise OSError(28, "No space left on device")
        write(path, data, **options)

    monkeypatch.setattr(core_files, "write_bytes", full)
    assert sample("a red boat", "--num-images", 8, "--batch-size", 4, "--seed", 7) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("rdm: error: cannot write to outputs/00005-7.png: No space left on device; make room")
    assert files() == [*IMAGES, "00004-7.png", "run.json"]
    run = json.loads(Path("outputs/run.json").read_text())
    assert not run["complete"] and len(run["images"]) == 4  # the record of the batch that was finished


@pytest.mark.slow
def test_replay_says_that_a_file_has_changed(sample, rdm, capsys):
    for seed in (0, 1):
        pixels_of = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels_of).save(f"start{seed}.png")
    Image.open("start0.png").save("start.png")
    arguments = ("--init", "start.png", "--strength", 0.5, "--num-images", 4, "--seed", 7)
    assert sample("a red boat", *arguments) == 0
    run = json.loads(Path("outputs/run.json").read_text())
    assert run["files"] == {"start.png": core_files.sha256(Path("start.png"))}
    assert rdm("replay", "outputs/00000-7.png") == 0
    assert "identical" in capsys.readouterr().err
    Image.open("start1.png").save("start.png")
    assert rdm("replay", "outputs/00000-7.png") == 0
    printed = capsys.readouterr().err
    assert "warning: start.png (sha256 " in printed and "is not the recorded file" in printed
    assert "differs by at most" in printed
    Path("start.png").unlink()
    assert rdm("replay", "outputs/00000-7.png") == 2
    assert "start.png is not here, nor beside" in capsys.readouterr().err
    Image.open("start0.png").save("outputs/start.png")  # beside the image
    assert rdm("replay", "outputs/00000-7.png") == 0
    assert "identical" in capsys.readouterr().err


@pytest.mark.slow
def test_a_negative_prompt_is_in_the_parameters(sample):
    options = ("--negative-prompt", "blur, noise", "--guidance-scale", 2, "--num-images", 4, "--seed", 7)
    assert sample("a red boat", *options) == 0
    lines = Image.open("outputs/00000-7.png").text["parameters"].split("\n")
    assert lines[:2] == ["a red boat", "Negative prompt: blur, noise"] and lines[2].startswith("Steps: 4, ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditions": ["negative(prompt='a cat')"]}, "a negative prompt or condition has no effect: the guidance"),
        ({"strength": 0.5}, "strength 0.5 has no effect: the run starts from no image"),
        ({"guidance_interval": (0.2, 0.8)}, "guidance interval 0.2 to 0.8 has no effect"),
        ({"guidance_rescale": 0.5}, "guidance rescale 0.5 has no effect"),
        ({"condition": "text", "neighbors": 2}, "neighbors 2 has no effect"),
        ({"conditions": ["negative(prompt='a cat')"], "guidance_scale": 2.0}, ""),
    ],
)
def test_options_without_effect_are_named(home, load, caplog, options, message):
    load(home / "model").plan("a red boat", database=home / "one", **{"guidance_scale": 1.0, **options})
    assert message in caplog.text and bool(message) == ("has no effect" in caplog.text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to generate"),
        ([""], "argument PROMPT: the value is empty"),
        ([" "], "prompt 1 is empty"),
        (["a", "--set", "conditioning.units=true"], "unknown setting 'conditioning.units'"),
        (["--proposals", "-1"], "argument --proposals: -1 is out of range; give 0 to 100000"),
        (["--proposals", "2", "--top-m", "0.1"], "give --counts DIR"),
        (["--proposals", "2", "--condition", "text"], "--proposals chooses rows of one database"),
        (["a", "--condition", "neighbor"], "did you mean 'neighbors'"),
        (["a", "--sampler", "dimm"], "did you mean 'ddim'"),
        (["a", "--sampler", "ddim(eta=0.5)", "--eta", "0.2"], "eta is 0.2 and in the sampler 0.5; give it once"),
        (["a", "--neighbors", "0"], "neighbors 0 is too small"),
        (["a", "--neighbors", "13"], "12 rows"),
        (["a", "--steps", "0"], "steps 0 is too small"),
        (["a", "--steps", "1001"], "1001 sampling steps do not fit a schedule of 1000"),
        (["a", "--height", "17"], "height 17 is not a multiple of 2"),
        (["a", "--guidance-scale", "nan"], "argument --guidance-scale: 'nan' is not a number"),
        (["a", "--guidance-scale", "inf"], "guidance scale inf"),
        (["a", "--guidance-scale", "1e39"], "guidance scale 1e+39"),
        (["a", "--seed", "-1"], "seed -1 is out of range"),
        (["a", "--num-images", "0"], "num images 0 is too small"),
        (["a", "--from-file", "missing.txt"], "cannot read prompts from missing.txt: No such file"),
        (["--from-file", "empty.txt"], "empty.txt holds no prompts"),
        (["--from-file", "image.png"], "cannot read prompts from image.png: byte 0x89 in line 1 is not UTF-8"),
        (["--image", "missing.png"], "cannot read missing.png: No such file"),
        (["--image", "empty.txt"], "cannot read empty.txt as an image: not a readable image"),
        (["a", "--out", "empty.txt"], "cannot write to empty.txt"),
        (["a", "--out", "empty.txt/out"], "cannot write to empty.txt/out"),
        (["a", "--model", "style-scene"], "unknown model 'style-scene'"),
        (["a", "--model", "damaged"], "damaged bundle"),
        (["a", "--database", "no-such"], "unknown database 'no-such'"),
        (["a", "--database", "{home}/foreign"], "was made by encoder"),
        (["a", "--database", "{home}/one"], "two databases are named 'one'"),
        (["a", "--step", "3"], "did you mean --steps"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(sample, home, capsys, arguments, message):
    Path("empty.txt").write_text("")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("image.png")
    Path("damaged").mkdir()
    Path("damaged/config.json").write_text("{")
    before = files(".")
    assert sample(*(argument.format(home=home) for argument in arguments)) == 2
    printed = capsys.readouterr()
    assert re.match("rdm: error: .*" + re.escape(message), printed.err.splitlines()[-1])
    assert "Traceback" not in printed.err
    assert not printed.out
    assert files(".") == before
    assert not Path("outputs").exists()


def test_an_image_without_a_record_cannot_be_replayed(rdm, capsys):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("plain.png")
    assert rdm("replay", "plain.png") == 2
    assert "carries no parameters" in capsys.readouterr().err
    assert rdm("replay", "missing.png") == 2
    assert "cannot read missing.png" in capsys.readouterr().err


def test_a_default_database_is_taken_only_where_there_is_one(rdm, capsys, monkeypatch, home):
    monkeypatch.setattr(
        "rdm_jax.retrieval.database.Database.names", staticmethod(lambda encoder=None: ["oil", "sketch"])
    )
    assert rdm("sample", "a", defaults=("--model",)) == 2
    assert "name one by --database (known: oil, sketch)" in capsys.readouterr().err


@pytest.mark.slow
def test_images_need_not_be_square(sample):
    assert sample("a red boat", "--height", 16, "--width", 24, "--num-images", 2, "--seed", 7) == 0
    assert pixels("outputs/00001-7.png").shape == (16, 24, 3)
    assert {"grid.png", "neighbors.png"} < set(files())


@pytest.mark.slow
def test_a_second_process_compiles_nothing_again(home, tmp_path):
    command = [sys.executable, "-m", "rdm_jax", "sample", "a red boat", "--seed", "7", "--out", str(tmp_path / "out")]
    command += ["--model", str(home / "model"), "--database", str(home / "one")]
    # Another test of this process may have named a cache folder: the command is to take its own.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    kept = []
    for folder in ("out", "out/run-002"):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{tmp_path / folder}\n"
        assert re.search(r"compiling for 1 image.*\n.*compiled in [\d.]+ s", done.stderr)
        kept.append(sorted(path.name for path in (tmp_path / "rdm_jax").glob("*-cache")))
    assert any(name.startswith("jit_advance") for name in kept[0])
    assert kept[0] == kept[1]
    assert np.array_equal(pixels(tmp_path / "out/00000-7.png"), pixels(tmp_path / "out/run-002/00000-7.png"))


def test_a_folder_of_images_is_a_database_that_is_built_once(rdm, home, load, capsys, monkeypatch):
    monkeypatch.setenv("RDM_CACHE", "cache")
    circle = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle cx="4" cy="4" r="3"/></svg>'
    Path("my-icons").mkdir()
    for color in ("red", "green", "blue"):
        Image.new("RGB", (20, 20), color).save(f"my-icons/{color}.png")
    Path("my-icons/circle.svg").write_text(circle)
    sample = functools.partial(rdm, "sample", "a red boat", "--seed", 7, "--num-images", 1, defaults=("--model",))
    assert sample("--database", "my-icons") == 0
    assert "building a database of my-icons: 4/4 images" in capsys.readouterr().err
    neighbors = json.loads(Path("outputs/run.json").read_text())["images"][0]["neighbors"]
    assert {one["path"] for one in neighbors} < {"red.png", "green.png", "blue.png", "circle.svg"}
    assert sample("--database", "my-icons:0.5", "--database", f"{home / 'one'}:0.5", "--out", "mixed") == 0
    assert "building" not in capsys.readouterr().err
    result = load(home / "model").sample("a red boat", database="my-icons", num_images=1, seed=7)
    assert np.array_equal(pixels("outputs/00000-7.png"), result.images[0])
    assert rdm("replay", "outputs/00000-7.png", "--database", "my-icons", defaults=("--model",)) == 0
    assert "identical" in capsys.readouterr().err


def test_a_folder_of_broken_images_is_an_error_of_one_line(rdm, capsys, monkeypatch):
    monkeypatch.setenv("RDM_CACHE", "cache")
    Path("broken").mkdir()
    Path("broken/a.svg").write_text('<svg><image href="/etc/passwd"/></svg>')
    assert rdm("sample", "a red boat", "--database", "broken", defaults=("--model",)) == 2
    error = capsys.readouterr().err
    assert "/etc/passwd" in error
    assert "Traceback" not in error
