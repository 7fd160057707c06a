import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rdm_jax.bundle import Bundle
from rdm_jax.cli.main import main
from rdm_jax.data.tokenizer import load_tokenizer, train_tokenizer
from rdm_jax.models import build_clip
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.sidecar import NeighborSidecar


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Returns the folder of a bundle that holds a tiny random CLIP."""
    folder = Path(tmp_path_factory.mktemp("model"))
    train_tokenizer(["a red cat on a house", "two blue dogs under a tree"], 300, folder / "tokenizer.json")
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    text = {"width": 16, "layers": 1, "heads": 2, "context_length": 10, "vocab_size": len(tokenizer)}
    vision = {"kind": "vit", "width": 16, "layers": 1, "heads": 2, "patch_size": 8, "image_size": 16}
    config = {"embed_dim": 12, "vision": vision, "text": {**text, "eos_id": tokenizer.eos_token_id}}
    clip = build_clip(config)
    params = jax.jit(clip.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 10), jnp.int32))["params"]
    settings = {**config, "mean": [0.5] * 3, "std": [0.25] * 3}
    Bundle({"name": "tiny", "clip": settings}, {"clip": params}, tokenizer).save(folder / "tiny", "float32")
    return folder / "tiny"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Returns a folder of 24 images with captions, one of them broken."""
    folder = tmp_path_factory.mktemp("images") / "zoo"
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = []
    for i in range(24):
        colors = generator.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(colors).resize((20, 16), Image.Resampling.NEAREST).save(folder / f"{i:02d}.png")
        rows.append({"file_name": f"{i:02d}.png", "text": f"image {i}", "style": ("ink", "oil")[i % 2]})
    (folder / "05.png").write_bytes((folder / "05.png").read_bytes()[:50])
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def database(model, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("databases") / "zoo"
    assert main(["database", "build", str(images), "--out", str(out), "--encoder", str(model)]) == 0
    return out


def call(capsys, *arguments):
    """Returns the exit status, the lines on standard output and those on standard error of `rdm ARGUMENTS`."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()


def refused(capsys, *arguments):
    """Returns the error line of `rdm ARGUMENTS`, which fails."""
    status, out, err = call(capsys, *arguments)
    errors = [line for line in err if "error:" in line]
    assert status == 2 and not out and len(errors) == 1 and "Traceback" not in "".join(err)
    return errors[0]


def test_build_reports_rows_and_skipped_files(capsys, model, images, tmp_path):
    out = tmp_path / "db"
    status, _, err = call(capsys, "database", "build", images, "--out", out, "--encoder", model, "--name", "my zoo")
    assert status == 0
    text = "\n".join(err)
    assert "zoo: 24 images, captions from metadata.jsonl (24)" in text
    assert "1 image is left out: 1 not a readable image" in text and "(05.png)" in text
    assert f"{out}/skipped.jsonl lists all of them" in text
    assert f"{out}: 23 rows by encoder 'tiny', 1 skipped" in text
    built = Database.open(out)
    assert built.name == "my zoo" and built.items([5])[0]["path"] == "06.png"


def test_build_options_reach_the_database(capsys, model, images, tmp_path):
    options = [
        "--where",
        "style=oil",
        "--limit",
        5,
        "--max-skip",
        0.5,
        "--thumbnail-size",
        16,
        "--dtype",
        "float32",
        "--licence",
        "CC0",
    ]
    status, _, _ = call(
        capsys, "database", "build", images, "--out", tmp_path / "db", "--encoder", model, *options, "--quality", 100
    )
    built = Database.open(tmp_path / "db")
    assert status == 0 and [item["path"] for item in built.items(range(len(built)))] == [
        "01.png", "03.png", "07.png", "09.png",
    ]  # fmt: skip
    assert built.manifest["licence"] == "CC0" and built.rows.dtype == np.float32
    assert built.thumbnails([0]).shape == (1, 16, 16, 3)


def test_info_and_verify(capsys, database):
    status, out, _ = call(capsys, "database", "info", database)
    assert status == 0
    lines = dict(line.split(":", 1) for line in out)
    assert lines["rows"].strip() == "23 of width 12, float16, in 1 shards" and "tiny (sha256" in lines["encoder"]
    assert lines["sha256"].strip() == Database.open(database).digest and "not verified" in lines["files"]
    assert call(capsys, "database", "info", database, "--verify")[1][-1].endswith("verified: all match the manifest")


def test_search_by_text_prints_the_nearest_rows(capsys, database, model, tmp_path):
    sheet = tmp_path / "sheets" / "found.png"
    status, out, _ = call(
        capsys, "database", "search", database, "a red cat", "--k", 5, "--encoder", model, "--sheet", sheet
    )
    built = Database.open(database)
    rows = np.asarray(built.rows, np.float32)
    query = ClipEncoder(Bundle.open(model)).encode_texts(["a red cat"])[0]
    scores = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    best = np.argsort(-scores)[:5]
    assert status == 0 and [int(line.split()[1]) for line in out[1:]] == best.tolist()
    np.testing.assert_allclose([float(line.split()[0]) for line in out[1:]], scores[best], atol=1e-4)
    assert f"image {int(built.items(best[:1])[0]['path'][:2])} (" in out[1]
    with Image.open(sheet) as image:
        assert image.format == "PNG" and image.width > 5 * 128


def test_the_encoder_is_found_again_where_it_was(capsys, database, model, images, tmp_path):
    """Its hash decides, not its name or place, and the rows do not depend on the place."""
    place, out = shutil.copytree(model, tmp_path / "model"), tmp_path / "db"
    arguments = ["database", "build", images, "--out", out]
    assert call(capsys, *arguments, "--encoder", place)[0] == 0
    assert Database.open(out).digest == Database.open(database).digest
    assert call(capsys, *arguments, "--encoder", model)[2][-1].endswith("nothing has changed")
    shown = dict(line.split(":", 1) for line in call(capsys, "database", "info", out)[1])
    assert shown["its bundle"].strip() == str(place)
    arguments = [["search", out, "a"], ["map", out, "--query", "a", "--out", tmp_path / "map.png"]]
    assert call(capsys, "database", "subset", out, "--out", tmp_path / "some", "--limit", 20)[0] == 0
    arguments += [
        ["tune", out, "--dry-run"],
        ["search", tmp_path / "some", "a"],
        ["search", shutil.copytree(out, tmp_path / "copy"), "a"],
    ]
    for given in arguments:
        assert call(capsys, "database", *given)[0] == 0
    assert (
        call(capsys, "neighbors", "--dataset", images, "--database", out, "--out", tmp_path / "near", "--k", 2)[0] == 0
    )
    more = tmp_path / "more"
    more.mkdir()
    shutil.copy(images / "00.png", more / "new.png")
    assert call(capsys, "database", "build", more, "--out", out, "--append")[0] == 0
    place.rename(tmp_path / "moved")
    line = refused(capsys, "database", "search", out, "a")
    assert "made by encoder 'tiny', which does not come with this installation" in line
    assert f"no longer in {place}; give its model by --encoder" in line
    shown = dict(line.split(":", 1) for line in call(capsys, "database", "info", out)[1])
    assert shown["its bundle"].strip() == f"{place} (no longer there)"
    bundle = Bundle.open(model)
    params = {"clip": jax.tree.map(lambda leaf: leaf * np.float32(0.5), bundle.params["clip"])}
    Bundle(bundle.config, params, bundle.tokenizer).save(place, "float32")
    assert f"no longer in {place}" in refused(capsys, "database", "search", out, "a")


def test_a_default_k_fits_a_database_of_two_rows(capsys, model, images, tmp_path):
    out = tmp_path / "two"
    assert call(capsys, "database", "build", images, "--out", out, "--encoder", model, "--limit", 2)[0] == 0
    status, lines, err = call(capsys, "database", "search", out, "a")
    assert status == 0 and len(lines) == 3
    assert any("2 neighbors and not 10, the default: two has no more of them" in line for line in err)
    assert "k 3 is out of range; two has 2 rows" in refused(capsys, "database", "search", out, "a", "--k", 3)
    assert call(capsys, "database", "tune", out, "--dry-run")[1][0].startswith("2 rows, recall@2 on")
    assert "--k 10 is out of range" in refused(capsys, "database", "tune", out, "--dry-run", "--k", 10)
    arguments = ["neighbors", "--dataset", images, "--split", "none"][:3]
    for extra, k in ([], 1), (["--keep-duplicates"], 2), (["--within", "style"], 1):
        place = tmp_path / f"near-{k}-{len(extra)}"
        if extra[:1] == ["--within"]:
            extra = [*extra, "--keep-duplicates"]
        status, _, err = call(capsys, *arguments, "--database", out, "--out", place, *extra)
        assert status == 0 and NeighborSidecar.open(place).k == k, err
        assert any(f"{k} neighbors and not 20, the default: database 'two' has no more" in line for line in err)


def test_search_by_image_finds_the_image_itself(capsys, database, model, images, tmp_path):
    arguments = ["--image", images / "07.png", "--encoder", model, "--k", 3, "--sheet", tmp_path / "found.jpg"]
    status, out, _ = call(capsys, "database", "search", database, *arguments)
    assert status == 0 and out[1].split()[0] == "1.0000" and out[1].endswith("(07.png)")
    assert (tmp_path / "found.jpg").stat().st_size > 1000


def test_search_warns_of_the_end_of_a_text_that_is_cut_off(capsys, database, model):
    _, _, err = call(capsys, "database", "search", database, "red cat " * 20 + "at the END", "--encoder", model)
    assert any("too long" in line and "at the END" in line for line in err)


def test_list_names_the_embedded_databases(capsys):
    status, out, _ = call(capsys, "database", "list", "--names")
    assert status == 0 and out == Database.names()
    status, out, _ = call(capsys, "database", "list")
    assert status == 0 and [line.split()[0] for line in out] == Database.names()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nowhere"], "unknown database 'nowhere'"),
        (["search", "{database}"], "give a TEXT or --image FILE"),
        (["search", "{database}", "a", "b"], "unexpected argument 'b'"),
        (["search"], "give a database to search"),
        (["search", "{database}", " "], "the TEXT is empty"),
        (["search", "{database}", "a", "--sheet", "{images}/05.png"], "05.png exists already"),
        (
            ["search", "{database}", "a", "--encoder", "{model}", "--k", "0"],
            "k 0 is out of range; zoo has 23 rows",
        ),
        (
            ["search", "{database}", "a", "--encoder", "{model}", "--k", "24"],
            "k 24 is out of range; zoo has 23 rows",
        ),
        (["search", "{database}", "a", "--k", "many"], "'many' is not a whole number"),
        (["search", "{database}", "a", "--encoder", "tiny-er"], "unknown model 'tiny-er'"),
        (["search", "{database}", "a", "--encoder", "{model}", "--index", "exakt"], "unknown index 'exakt'"),
        (["search", "{database}", "a", "--encoder", "{model}", "--sheet", "x.tga"], "unknown image format '.tga'"),
        (
            ["search", "{database}", "--image", "nowhere.png"],
            "cannot read nowhere.png: No such file or directory; check the path",
        ),
        (["search", "{database}", "--image", "{images}/05.png"], "not a readable image"),
        (["build", "{images}", "--out", "{database}"], "exists already"),
        (["build", "{images}", "--out", "{new}", "--encoder", "nothing"], "unknown model 'nothing'"),
        (["build", "{images}/nothing", "--out", "{new}"], "no folder or file"),
        (
            ["build", "{images}", "--out", "{new}", "--encoder", "{model}", "--limit", "0"],
            "argument --limit: 0 is out of range; give 1 or more",
        ),
        (
            ["build", "{images}", "--out", "{new}", "--max-skip", "2"],
            "argument --max-skip: 2 is out of range; give 0 to 1",
        ),
        (
            ["build", "{images}", "--out", "{new}", "--encoder", "{model}", "--max-skip", "0"],
            "1 of the first 6 images",
        ),
        (["build", "{images}", "--out", "{new}", "--where", "oil"], "--where 'oil' is not KEY=VALUE"),
        (
            ["build", "{images}", "--out", "{new}", "--quality", "0"],
            "argument --quality: 0 is out of range; give 1 to 100",
        ),
        (
            ["build", "{images}", "--out", "{new}", "--encoder", "{model}", "--split", "train"],
            "unknown split 'train'",
        ),
        (["build", "{images}"], "--out"),
        (["biuld"], "invalid choice: 'biuld'"),
    ],
)
def test_bad_input_is_refused_in_one_line(capsys, database, model, images, tmp_path, arguments, message):
    places = {"database": database, "model": model, "images": images, "new": tmp_path / "new"}
    assert message in refused(capsys, "database", *(argument.format(**places) for argument in arguments))
    assert not (tmp_path / "new").exists()


def test_another_encoder_is_refused(capsys, database, model, tmp_path):
    bundle = Bundle.open(model)
    params = {"clip": jax.tree.map(lambda leaf: leaf * np.float32(0.5), bundle.params["clip"])}
    Bundle({**bundle.config, "name": "other"}, params, bundle.tokenizer).save(tmp_path / "other", "float32")
    line = refused(capsys, "database", "search", database, "a", "--encoder", tmp_path / "other")
    assert "was made by encoder 'tiny'" in line and "this is 'other'" in line


def test_neighbors_are_computed_once(capsys, database, model, images, tmp_path):
    arguments = ["--dataset", images, "--database", database, "--encoder", model, "--k", 4, "--keep-duplicates"]
    arguments += ["--out", tmp_path / "out"]
    status, _, err = call(capsys, "neighbors", *arguments)
    assert status == 0 and any("4 neighbors of 24 examples in 'zoo'" in line for line in err)
    sidecar = NeighborSidecar.open(tmp_path / "out")
    assert sidecar[7][0][0] == 6 and sidecar[5][0][0] == -1
    status, _, err = call(capsys, "neighbors", *arguments)
    assert status == 0 and any("finished before, 24 examples" in line for line in err)
    assert "computed with another duplicates" in refused(
        capsys, "neighbors", *(one for one in arguments if one != "--keep-duplicates")
    )
    assert "k 99 is out of range" in refused(capsys, "neighbors", *arguments, "--k", 99)
    assert "unknown database 'nowhere'" in refused(capsys, "neighbors", *arguments, "--database", "nowhere")


def test_import_converts_rows_without_images(tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(6, 128)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", embedding=rows, img_id=np.arange(6), patch_coords=np.zeros((6, 4), np.int64))
    arguments = ["database", "import", str(tmp_path / "rows.npz"), "--encoder", "style-scenes"]
    assert main([*arguments, "--out", str(tmp_path / "rows")]) == 0
    assert "6 rows by encoder 'style-scenes', without images" in capsys.readouterr().err
    assert main(["database", "info", str(tmp_path / "rows"), "--verify"]) == 0
    info = capsys.readouterr().out
    assert "6 of width 128, float16" in info and "thumbnails:  none" in info and "img_id" in info
    assert main(["database", "search", str(tmp_path / "rows"), "a red boat", "--k", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main([*arguments, "--out", str(tmp_path / "rows")]) == 2
    assert "exists already" in capsys.readouterr().err
