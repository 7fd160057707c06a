"""`rdm evaluate` on tiny random models, through the command line's front door."""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rdm_jax.bundle import Bundle
from rdm_jax.cli.main import main
from rdm_jax.data.style_scenes.vocabulary import COLORS, GROUNDS, STYLES, SUBJECTS
from rdm_jax.evaluation.arms import ARMS, GENERAL, database_name
from rdm_jax.evaluation.bench import Sizes
from rdm_jax.evaluation.classifiers import RealImages
from rdm_jax.generator import Generator
from rdm_jax.models.classifier import build_classifier
from tests.helpers import guided, icons, tiny

QUICK = Sizes(targets=3, images=2, others=10, steps=2, ascent=5, few_steps=2, reference_steps=2, sweep=False)
CLASSES = {"subject": list(SUBJECTS), "colour": list(COLORS), "style": list(STYLES)}


def random_classifier():
    settings = {"classes": CLASSES, "stem": [4], "widths": [8], "num_groups": 2}
    module = build_classifier(settings)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape, np.float32), shapes)
    return Bundle({"name": "random", "classifier": settings, "evaluation": {"unseen": {}}}, {"classifier": params})


def random_images(split, indices, progress=None):
    labels = [
        {"subject": SUBJECTS[i % 12], "colour": "red", "ground": next(iter(GROUNDS)), "style": STYLES[i // 12 % 12]}
        for i in indices
    ]
    return random_images_like(labels, 0)


def random_images_like(labels, seed):
    generator = np.random.default_rng(seed)
    return RealImages(generator.integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8), list(labels))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model, a classifier, and one small database under all the names that are needed."""
    folder = tmp_path_factory.mktemp("home")
    tiny.bundle().save(folder / "model", "float32")
    random_classifier().save(folder / "classifier", "float32")
    first = tiny.database(folder / "databases", GENERAL, Generator.load(folder / "model").bundle)
    for style in STYLES:
        shutil.copytree(first, folder / "databases" / database_name(style))
    return folder


@pytest.fixture
def evaluate(home, monkeypatch, tmp_path):
    """Runs the verb in an empty folder; returns the exit status."""
    monkeypatch.setattr("rdm_jax.evaluation.style_swap.real_images", random_images)
    monkeypatch.setattr("rdm_jax.evaluation.comparisons.real_images_like", random_images_like)
    monkeypatch.chdir(tmp_path)
    places = {"--model": home / "model", "--classifier": home / "classifier", "--databases": home / "databases"}

    def run(*arguments, measure="style-swap"):
        replaced = {*arguments, "--classifier"} if "--train-classifier" in arguments else arguments
        given = [str(part) for pair in places.items() if pair[0] not in replaced for part in pair]
        return main(["evaluate", measure, *given, *arguments])

    return run


@pytest.mark.slow
def test_a_run_leaves_a_table_results_and_a_grid(evaluate, capsys, tmp_path):
    assert evaluate("--out", "out", "--quick", "--samples", "24", "--arm-samples", "12", "--quiet") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "results.md", "grid.png"}
    found = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)
    assert list(found["arms"]) == [arm.name for arm in ARMS]
    assert [arm["samples"] for arm in found["arms"].values()] == [24, *[12] * (len(ARMS) - 1)]
    assert found["model"]["name"] == "tiny" and len(found["model"]["sha256"]) == 64
    assert len(found["databases"]) == 13 and found["classifier_model"]["name"] == "random"
    assert found["arguments"]["settings"]["steps"] == 4 and found["arguments"]["settings"]["seed"] == 0
    assert {"classifier", "every_pair", "diversity", "copies", "frechet", "autoencoder"} <= set(found)
    text = capsys.readouterr().out
    assert text.endswith("out\n")
    markdown = (tmp_path / "out" / "results.md").read_text()
    for arm in ARMS:
        assert arm.title in text and f"| {arm.title} | " in markdown
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.width > 12 * 32


@pytest.mark.slow
def test_nothing_is_overwritten_and_one_arm_may_be_measured_alone(evaluate, capsys, tmp_path):
    arguments = ("--out", "out", "--quick", "--arm", "kept_out_style", "--arm-samples", "12", "--quiet")
    assert evaluate(*arguments) == 0
    before = (tmp_path / "out" / "results.json").read_bytes()
    assert evaluate(*arguments) == 0
    assert (tmp_path / "out" / "results.json").read_bytes() == before
    again = json.loads((tmp_path / "out" / "run-002" / "results.json").read_text())
    assert list(again["arms"]) == ["kept_out_style"]
    volatile = ("seconds",)
    assert {k: v for k, v in again.items() if k not in volatile} == {
        k: v for k, v in json.loads(before).items() if k not in volatile
    }
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arm", "style_databse"], "unknown arm 'style_databse'; did you mean 'style_database'"),
        (["--samples", "0"], "--samples 0 is too few"),
        (["--batch-size", "0"], "batch size 0 is too small"),
        (["--guidance-scale", "nan"], "--guidance-scale: 'nan' is not a number"),
        (["--model", "nowhere"], "unknown model 'nowhere'"),
        (["--databases", "nowhere"], "unknown database 'nowhere"),
        (["--classifier", "nowhere"], "unknown model 'nowhere'"),
        (["--classifier", "nosuch://nowhere"], "cannot open nosuch://nowhere"),
        (["--classifier", ""], "--classifier: the value is empty"),
        (["--train-classifier", ""], "--train-classifier: the value is empty"),
        (["--databases", "gs://bucket/databases"], "gs://bucket/databases lies in object storage"),
        (["--databases", "~nobody-here/x"], "the home folder of an unknown user"),
        (["--condition", "text"], "condition 'text' uses no database"),
        (["--steps", "100000"], "100000 sampling steps do not fit"),
        (["--sampler", "dddim"], "unknown sampler 'dddim'"),
        (["--seed", "-1"], "seed -1 is out of range"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(evaluate, capsys, tmp_path, arguments, message):
    assert evaluate("--out", "out", "--quick", *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


QUICK_CLASSIFIER = """
from rdm_jax.training.config import base_config

def get_config():
    config = base_config("style_scenes/classifier")
    data = {"source": "style_scenes/tiny", "prepare": True, "size": 16}
    model = {"stem": (4,), "widths": (8,), "num_groups": 2}
    config.update({"steps": 2, "batch_size": 4, "eval_every": 0, "checkpoint_every": 2, "data": data, "model": model})
    return config
"""


@pytest.mark.slow
def test_a_classifier_may_be_trained_first(evaluate, monkeypatch, tmp_path, capsys):
    (tmp_path / "quick.py").write_text(QUICK_CLASSIFIER)
    monkeypatch.setattr("rdm_jax.cli.evaluate.common.CLASSIFIER_CONFIG", "quick.py")
    arguments = ("--out", "out", "--quick", "--arm", "kept_out_style", "--arm-samples", "12")
    assert evaluate(*arguments, "--train-classifier", "runs/classifier") == 0, capsys.readouterr().err
    trained = json.loads((tmp_path / "runs/classifier/metrics.jsonl").read_text().splitlines()[-1])
    assert trained["step"] == 2
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert found["arms"]["kept_out_style"]["samples"] == 12
    assert found["classifier"]["style"]["rate"] < 0.5  # two steps recognize little, where the embedded one is right


def test_a_classifier_that_is_not_trained_yet_is_not_measured_with(evaluate, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("rdm_jax.cli.train.train_in", lambda *_: 300)  # a signal stopped it
    assert evaluate("--out", "out", "--quick", "--train-classifier", "runs/classifier") == 2
    assert "runs/classifier is trained to step 300 of 1500; the same command resumes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_measure_must_be_named(capsys):
    assert main(["evaluate"]) == 2
    assert "rdm evaluate --help" in capsys.readouterr().err


@pytest.fixture(scope="module")
def guided_home(tmp_path_factory):
    """A folder with a model that has noised networks, a classifier, and a database of captioned images."""
    folder = tmp_path_factory.mktemp("guided")
    guided.bundle(condition="text+neighbors").save(folder / "model", "float32")
    guided.classifier(guided.CLASSES).save(folder / "classifier", "float32")
    guided.database(folder / "databases", GENERAL, Generator.load(folder / "model").bundle)
    return folder


@pytest.fixture
def evaluate_guidance(guided_home, monkeypatch, tmp_path):
    """Runs the measure in an empty folder; returns the exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rdm_jax.evaluation.bench.QUICK", QUICK)
    places = {name: guided_home / name[2:] for name in ("--model", "--databases")}
    places["--classifier"] = guided_home / "classifier"

    def run(*arguments):
        replaced = {*arguments, "--classifier"} if "--train-classifier" in arguments else arguments
        given = [str(part) for pair in places.items() if pair[0] not in replaced for part in pair]
        return main(["evaluate", "guidance", "--out", "out", "--quick", "--quiet", *given, *arguments])

    return run


@pytest.mark.slow
def test_guidance_leaves_tables_curves_and_a_grid(evaluate_guidance, capsys, tmp_path):
    assert evaluate_guidance("--method", "ilvr", "--targets", "3") == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"results.json", "results.md", "grid.png", "curves.png"}
    found = json.loads((out / "results.json").read_text(), parse_constant=pytest.fail)
    assert list(found["methods"]) == ["ilvr"] and len(found["gallery"]["targets"]) == 3
    assert found["model"]["name"] == "tiny" and found["arguments"]["sizes"]["targets"] == 3
    text = capsys.readouterr().out
    assert "ILVR" in text and "DPM-Solver++ 2M, 2 steps" in text and text.endswith("out\n")
    with Image.open(out / "grid.png") as grid:
        assert grid.width > 9 * 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "ilvrr"], "unknown method 'ilvrr'; did you mean 'ilvr'"),
        (["--targets", "1"], "--targets 1 is too few"),
        (["--databases", "."], ". has no database; give a folder"),
        (["--model", "nowhere"], "unknown model 'nowhere'"),
        (["--seed", "-1"], "--seed -1 is out of range"),
        (["--seed", "4294967295"], "--seed 4294967295 is out of range; give 0 to"),
        (["--steps", "100000"], "100000 sampling steps do not fit"),
        (["--train-classifier", ""], "--train-classifier: the value is empty"),
    ],
)
def test_what_guidance_cannot_measure_is_one_line_and_leaves_nothing(
    evaluate_guidance, capsys, tmp_path, arguments, message
):
    assert evaluate_guidance(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_guidance_takes_a_classifier_that_is_trained_first(evaluate_guidance, monkeypatch, tmp_path, capsys):
    (tmp_path / "quick.py").write_text(QUICK_CLASSIFIER)
    monkeypatch.setattr("rdm_jax.cli.evaluate.common.CLASSIFIER_CONFIG", "quick.py")
    arguments = ("--method", "ilvr", "--targets", "2", "--train-classifier", "runs/classifier")
    assert evaluate_guidance(*arguments) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert found["classifier_model"]["name"] == "style-scenes-classifier" and list(found["methods"]) == ["ilvr"]


@pytest.mark.parametrize(
    "classes", [{"weather": ["wet", "dry"]}, {"style": ["x", "y"]}], ids=lambda classes: next(iter(classes))
)
@pytest.mark.slow
def test_guidance_takes_a_classifier_of_other_things(evaluate_guidance, tmp_path, capsys, classes):
    guided.classifier(classes).save(tmp_path / "other", "float32")
    status = evaluate_guidance("--method", "ilvr", "--targets", "2", "--classifier", str(tmp_path / "other"))
    assert status == 0, capsys.readouterr().err


@pytest.fixture(scope="module")
def icon_home(tmp_path_factory):
    """A folder with a model, a classifier of styles and captions, and databases of icons."""
    folder = tmp_path_factory.mktemp("icons")
    tiny.bundle().save(folder / "model", "float32")
    settings = {"classes": icons.CLASSES, "stem": [4], "widths": [8], "num_groups": 2}
    config = {"name": "icons-classifier", "classifier": settings, "evaluation": {"held_out_share": 0.5}}
    Bundle(config, {"classifier": tiny.random_params(config, "classifier")}).save(folder / "classifier", "float32")
    model = Generator.load(folder / "model").bundle
    for name, styles in {**{style: (style,) for style in icons.STYLES}, "content": icons.OTHERS}.items():
        icons.database(folder / "databases", name, styles, model)
    return folder


@pytest.fixture
def evaluate_icons(icon_home, monkeypatch, tmp_path):
    """Runs the measure in an empty folder; returns the exit status."""
    monkeypatch.chdir(tmp_path)
    places = {f"--{name}": icon_home / name for name in ("model", "classifier", "databases")}

    def run(*arguments):
        given = [str(part) for pair in places.items() if pair[0] not in arguments for part in pair]
        style = [] if "--style" in arguments else ["--style", "pixelarticons", "--style", "memory"]
        return main(["evaluate", "icon-set", "--out", "out", "--quick", "--quiet", *style, *given, *arguments])

    return run


@pytest.mark.slow
def test_icon_sets_leave_tables_targets_and_a_sheet_of_every_arm(evaluate_icons, icon_home, capsys, tmp_path):
    assert evaluate_icons("--steps", "2", "--other", f"pooled={icon_home / 'model'}") == 0, capsys.readouterr().err
    out = tmp_path / "out"
    found = json.loads((out / "results.json").read_text(), parse_constant=pytest.fail)
    assert list(found["arms"]) == ["model", "retrieval", "content", "named", "pooled"]
    assert found["styles"] == dict.fromkeys(("pixelarticons", "memory"), len(icons.CAPTIONS))
    assert found["words"] == {"concepts": 2, "unseen words": 2}
    assert all(arm["images"] == 2 * 4 for arm in found["arms"].values())
    assert found["arms"]["model"]["overall"] == found["arms"]["pooled"]["overall"]  # the same model and seed
    assert found["arguments"]["settings"] == {"steps": 2, "seed": 0}
    sheets = {f"{arm}-{group}.png" for arm in found["arms"] for group in ("concepts", "unseen-words")}
    assert {path.name for path in out.iterdir()} == {"results.json", "results.md", *sheets}
    assert {len(one) for one in found["targets"]} == {6}
    assert "| kept |" in (out / "results.md").read_text()
    assert "Targets of the model" in capsys.readouterr().out


def test_one_arm_of_icon_sets_may_be_measured_alone(evaluate_icons, tmp_path, capsys):
    assert evaluate_icons("--arm", "retrieval", "--words", "1", "--style", "memory") == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(found["arms"]) == ["retrieval"] and found["arms"]["retrieval"]["images"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--style", "memry"], "unknown style 'memry'; did you mean 'memory'"),
        (["--arm", "modl"], "unknown arm 'modl'; did you mean 'model'"),
        (["--words", "0"], "argument --words: 0 is out of range"),
        (["--candidates", "0"], "argument --candidates: 0 is out of range"),
        (["--other", "pooled"], "--other 'pooled' is not NAME=MODEL"),
        (["--databases", "nowhere"], "unknown database 'nowhere"),
        (["--tags", "nowhere"], "there is no nowhere"),
        (["--style", "game-icons", "--words", "5"], "does not know the caption"),
    ],
)
def test_bad_input_of_icon_sets_is_one_line(evaluate_icons, capsys, tmp_path, arguments, message):
    assert evaluate_icons(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_icon_sets_need_databases(icon_home, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "icon-set", "--out", "out", "--model", str(icon_home / "model")]) == 2
    assert "icon-set needs --databases" in capsys.readouterr().err


@pytest.mark.slow
def test_ways_of_requesting_a_style_leave_a_table_and_a_grid(evaluate, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("rdm_jax.evaluation.crossed.real_images", random_images)
    monkeypatch.setattr("rdm_jax.evaluation.crossed.real_images_like", random_images_like)
    arms = ["unseen_database", "unseen_neither"]
    arguments = [part for arm in arms for part in ("--arm", arm)]
    measure = ("--out", "out", "--quick", "--arm-samples", "24", "--quiet", *arguments)
    assert evaluate(*measure, measure="styles") == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)
    assert list(found["arms"]) == arms and all(arm["samples"] == 24 for arm in found["arms"].values())
    assert all({"diversity", "copies", "real_diversity"} <= set(arm) for arm in found["arms"].values())
    assert (tmp_path / "out" / "grid.png").is_file()
    markdown = (tmp_path / "out" / "results.md").read_text()
    assert all(f"| {arm['title']} | 24 |" in markdown for arm in found["arms"].values())
    assert evaluate("--out", "x", "--arm", "seen_databse", measure="styles") == 2
    assert "unknown arm 'seen_databse'; did you mean 'seen_database'" in capsys.readouterr().err
