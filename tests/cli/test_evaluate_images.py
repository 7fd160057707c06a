"""`rdm evaluate images` with a classifier of random weights, through the command line's front door."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy import linalg

from rdm_jax.bundle import Bundle
from rdm_jax.cli.main import main
from rdm_jax.evaluation.features.extraction import extract
from rdm_jax.evaluation.features.image_sets import open_images
from rdm_jax.evaluation.features.networks import FeatureNetwork
from rdm_jax.evaluation.metrics.pixels import psnr, ssim
from tests.helpers import classifier, tiny


def write(folder, count, seed, captions=False):
    """Writes images whose brightness differs from set to set."""
    folder.mkdir()
    generator = np.random.default_rng(seed)
    for number in range(count):
        pixels = generator.integers(20 * seed, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        if captions:
            (folder / f"{number:02d}.txt").write_text(f"a {'red' if number % 2 else 'blue'} boat {number // 4}")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with two sets of images, a classifier and a CLIP."""
    home = tmp_path_factory.mktemp("sets")
    write(home / "real", 24, 0, captions=True)
    write(home / "made", 20, 3, captions=True)
    classifier.bundle().save(home / "classifier", "float32")
    tiny.bundle().save(home / "clip", "float32")
    return home


@pytest.fixture
def evaluate(home, own_environment, monkeypatch, tmp_path):
    """Runs the measure in an empty folder; returns the exit status."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, images="made", features=("classifier",), reference="real"):
        given = [part for name in features for part in ("--features", str(home / name))]
        given += ["--reference", str(home / reference)] if reference else []
        return main(["evaluate", "images", str(home / images), *given, "--out", "out", "--quiet", *map(str, arguments)])

    return run


def results(tmp_path, folder="out"):
    return json.loads((tmp_path / folder / "results.json").read_text(), parse_constant=pytest.fail)


def test_distributions_are_compared_and_all_that_defines_the_numbers_is_recorded(evaluate, home, tmp_path, capsys):
    assert evaluate("--subset-size", 10, "--subsets", 3) == 0, capsys.readouterr().err
    found = results(tmp_path)
    assert [row["metric"] for row in found["metrics"]] == ["fid", "kid", "is", *["prdc"] * 4]
    network = FeatureNetwork(Bundle.open(home / "classifier"), "classifier")
    made, real = (extract(open_images(home / name), [network], True)[1][0] for name in ("made", "real"))
    a, b = made.moments, real.moments
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
    assert found["metrics"][0]["value"] == pytest.approx(expected, rel=1e-6)
    assert found["images"]["images"] == 20 and found["reference"]["images"] == 24
    assert len(found["images"]["sha256"]) == 64 and found["images"]["sizes"] == {"16x16": 20}
    (features,) = found["features"]
    assert features["sha256"] == network.bundle.hashes["classifier"] and features["preprocessing"]["size"] == 64
    assert found["arguments"]["subset_size"] == 10 and found["versions"]["numpy"] and found["implementation"]
    shown, written = capsys.readouterr().out, (tmp_path / "out" / "results.md").read_text()
    for row in found["metrics"]:
        assert row["title"] in shown and f"| {row['title']} | " in written


def test_numbers_of_other_networks_do_not_have_the_names_of_the_literature(evaluate, tmp_path, capsys):
    assert evaluate(features=()) == 2  # the stand-in has 456 features
    assert "has 20 images, and a covariance of 456 features needs 457" in capsys.readouterr().err
    assert evaluate("--allow-few", features=()) == 0
    found = results(tmp_path)
    assert all(row["stand_in"] for row in found["metrics"])
    text = (tmp_path / "out" / "results.md").read_text()
    for name in ("FID", "KID", "Inception Score"):
        assert f"| {name}" not in text
    assert "No published feature network was given" in text and "Fréchet distances are biased: made and real" in text
    assert found["metrics"][0]["parameters"]["too_few_images"] == ["made", "real"]
    assert "rdm convert pt_inception-2015-12-05-6726825d.pth" in capsys.readouterr().err


def test_captions_and_groups_are_measured(evaluate, tmp_path):
    names = "clip-score,cmmd,clip-fid,retrieval,lpips,copies,gram"
    training = ("--training", tmp_path / "training")
    write(tmp_path / "training", 6, 3)
    assert evaluate("--metrics", names, *training, "--bootstrap", 20, features=("clip", "classifier")) == 0
    rows = {(row["metric"], row["title"]): row for row in results(tmp_path)["metrics"]}
    by_metric = {metric: row for (metric, _), row in rows.items()}
    assert set(by_metric) == set(names.split(","))
    for metric, row in by_metric.items():
        assert row["low"] <= row["value"] <= row["high"] or metric in ("cmmd", "clip-fid"), row
    # The training images are the first six of the measured ones.
    assert by_metric["copies"]["value"] >= 6 / 20
    assert "of two images of one caption" in by_metric["lpips"]["title"] and by_metric["lpips"]["stand_in"]
    assert by_metric["retrieval"]["parameters"]["gallery"] == 12
    assert by_metric["clip-score"]["title"] == "cosine of image and caption by the clip of 'tiny'"


def test_reconstructions_are_compared_with_the_image_of_their_name(evaluate, home, tmp_path):
    assert evaluate("--metrics", "psnr,ssim,rfid", "--allow-few") == 0
    rows = {row["metric"]: row for row in results(tmp_path)["metrics"]}
    pairs = [[np.asarray(Image.open(home / name / f"{i:02d}.png")) for i in range(20)] for name in ("made", "real")]
    a, b = map(np.stack, pairs)
    assert rows["psnr"]["value"] == pytest.approx(psnr(a, b).mean())
    assert rows["ssim"]["value"] == pytest.approx(ssim(a, b).mean())
    assert rows["rfid"]["title"].startswith("rFréchet distance in features of")


def test_statistics_replace_the_images_of_the_reference(evaluate, home, tmp_path, capsys):
    assert evaluate("--metrics", "fid,kid", "--subset-size", 10) == 0
    write_out = ("--metrics", "fid", "--write-statistics", "stats.npz", "--write-npz", "images.npz")
    assert evaluate(*write_out, images="real") == 0
    statistics = tmp_path / "stats.npz"
    capsys.readouterr()
    assert evaluate("--metrics", "fid", "--reference", statistics, reference=None) == 0
    first, again = results(tmp_path), results(tmp_path, "out/run-003")
    assert again["metrics"][0]["value"] == pytest.approx(first["metrics"][0]["value"], rel=1e-9)
    assert again["reference"]["statistics"] == "stats.npz" and again["reference"]["sha256"]
    with np.load(tmp_path / "images.npz") as stored:
        assert stored["arr_0"].shape == (24, 16, 16, 3)
    assert evaluate("--metrics", "fid", "--reference", tmp_path / "images.npz", reference=None) == 0
    assert results(tmp_path, "out/run-004")["metrics"][0]["value"] == pytest.approx(again["metrics"][0]["value"])
    capsys.readouterr()
    assert evaluate("--metrics", "kid", "--reference", statistics, reference=None) == 2
    assert "holds a mean and a covariance" in capsys.readouterr().err


def test_statistics_of_another_program_are_named_as_such(evaluate, home, tmp_path, capsys):
    np.savez(tmp_path / "foreign.npz", mu=np.zeros(12), sigma=np.eye(12))
    assert evaluate("--metrics", "fid", "--reference", tmp_path / "foreign.npz", reference=None) == 0
    assert "statistics of another program" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reference", "message"),
    [
        (["--metrics", "fidd"], "real", "unknown metric 'fidd'; did you mean"),
        (["--metrics", ","], "real", "no metric is given"),
        ([], None, "metric fid needs a reference"),
        (["--metrics", "copies"], "real", "metric copies needs the images to search; give --training"),
        (["--resize", "cleann"], "real", "unknown resizing 'cleann'"),
        (["--write-statistics", "stats.txt"], "real", "stats.txt is no .npz file"),
        (["--metrics", "kid", "--subset-size", "21"], "real", "subsets of 21 images, and a set has 20"),
        (["--metrics", "is", "--splits", "21"], "real", "needs 21 images or more"),
        (["--metrics", "prdc", "--k", "20"], "real", "20 nearest neighbors need 21 images"),
        (["--metrics", "psnr"], "classifier", "no images in"),
        (["--features", "nowhere"], "real", "unknown model 'nowhere'"),
        (["--k", "0"], "real", "--k: 0 is out of range"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(evaluate, capsys, tmp_path, arguments, reference, message):
    assert evaluate(*arguments, reference=reference) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_images_without_a_caption_or_a_partner_are_named(evaluate, home, tmp_path, capsys):
    write(tmp_path / "plain", 30, 2)
    plain = tmp_path / "plain"
    assert evaluate("--metrics", "clip-score", images=plain, features=("clip",)) == 2
    assert "needs a caption for each image of plain, and 30 have none (00.png)" in capsys.readouterr().err
    assert evaluate("--metrics", "psnr", images=plain) == 2
    assert "6 images of plain have no image of the same name in real (24.png)" in capsys.readouterr().err
    Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(plain / "00.png")
    for number in range(24, 30):
        (plain / f"{number}.png").unlink()
    capsys.readouterr()
    assert evaluate("--metrics", "psnr", images=plain) == 2
    assert "00.png of plain is 20x16 pixels and its original 16x16" in capsys.readouterr().err
