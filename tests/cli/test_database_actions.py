"""The actions of `rdm database`, each with valid and with invalid input."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdm_jax.bundle import Bundle
from rdm_jax.cli.main import main
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.query import mixed_query
from rdm_jax.retrieval.retriever import Retriever
from tests.helpers import tiny
from tests.retrieval.conftest import noise, same_files

STYLES = ("ink", "oil", "wax")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Returns the folder of a tiny random model."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.bundle().save(folder, "float32")
    return folder


def write_set(folder, count, seed):
    """Writes images with captions, styles and artists."""
    folder.mkdir()
    rows = []
    for i, image in enumerate(noise(count, seed)):
        Image.fromarray(image).resize((20, 16)).save(folder / f"{i:02d}.png")
        labels = {"text": f"{folder.name} no. {i}", "style": STYLES[i % 3], "artist": f"Artist {i % 4}"}
        rows.append({"file_name": f"{i:02d}.png", **labels})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Returns a folder with two sets of images."""
    root = tmp_path_factory.mktemp("sets")
    write_set(root / "boats", 24, 0)
    write_set(root / "trees", 18, 1)
    return root


@pytest.fixture(scope="module")
def databases(model, sets, tmp_path_factory):
    """Returns a folder with a database of each; tests must not change them."""
    root = tmp_path_factory.mktemp("databases")
    for name in ("boats", "trees"):
        source, out = sets / name, root / name
        assert main(["database", "build", str(source), "--out", str(out), "--encoder", str(model)]) == 0
    return root


@pytest.fixture(scope="module")
def opened(databases):
    return [Database.open(databases / name) for name in ("boats", "trees")]


@pytest.fixture
def copy(databases, tmp_path):
    """Returns a copy of the boats that a test may change."""
    return Path(shutil.copytree(databases / "boats", tmp_path / "boats"))


@pytest.fixture(scope="module")
def encoder(model):
    return ClipEncoder(Bundle.open(model))


def call(capsys, *arguments):
    """Returns the exit status, the lines on standard output and those on standard error of `rdm database ...`."""
    capsys.readouterr()
    status = main(["database", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()


def done(capsys, *arguments):
    """Returns the lines on standard output and on standard error of an action that succeeds."""
    status, out, err = call(capsys, *arguments)
    assert status == 0, err
    return out, err


# Searching.


def found_by(capsys, *arguments):
    """Returns the (score, row, rest) of each row that a search prints."""
    out, _ = done(capsys, "search", *arguments)
    return [(float(line.split()[0]), int(line.split()[1]), line.split(maxsplit=2)[2]) for line in out[1:]]


def test_weights_divide_the_neighbors_and_each_names_its_database(capsys, databases, opened, model, encoder):
    names = [f"{databases}/boats:0.7", f"{databases}/trees:0.3"]
    arguments = ["--database", names[0], "--database", names[1], "a red boat", "--k", 10, "--encoder", model]
    found = found_by(capsys, *arguments)
    expected = Retriever(encoder, opened, [0.7, 0.3]).retrieve(encoder.encode_texts(["a red boat"]), 10)
    assert [row for _, row, _ in found] == expected.ids[0].tolist()
    np.testing.assert_allclose([score for score, _, _ in found], expected.scores[0], atol=1e-4)
    origins = [rest.split()[0] for _, _, rest in found]
    assert origins == expected.databases[0].tolist() and sorted(origins) == ["boats"] * 7 + ["trees"] * 3
    assert all(f"{name} no. {row} ({row:02d}.png)" in rest for (_, row, rest), name in zip(found, origins, strict=True))


def test_texts_images_and_negatives_are_one_query(capsys, databases, sets, opened, model, encoder):
    arguments = ["a boat", "--image", sets / "trees" / "03.png", "--image-weight", 0.6, "--negative", "a sail"]
    arguments += ["--negative-weight", 0.25, "--k", 6, "--encoder", model]
    found = found_by(capsys, databases / "boats", *arguments)
    with Image.open(sets / "trees" / "03.png") as image:
        images = [np.asarray(image)]
    weights = {"image_weight": 0.6, "negative_weight": 0.25}
    query = mixed_query(encoder, ["a boat"], images, ["a sail"], **weights)
    expected = Retriever(encoder, opened[:1]).retrieve(query, 6)
    assert [row for _, row, _ in found] == expected.ids[0].tolist()


def test_filters_drop_rows(capsys, databases, model, tmp_path):
    listed = tmp_path / "list"
    listed.write_text("artist=Artist 1\n03.png\n")
    arguments = ["a boat", "--where", "style=ink", "--exclude", "path=06.png", "--exclude-list", listed, "--k", 4]
    found = found_by(capsys, databases / "boats", *arguments, "--encoder", model)
    expected = [i for i in range(24) if i % 3 == 0 and i % 4 != 1 and i not in (3, 6)]
    assert len(expected) == 4 and sorted(row for _, row, _ in found) == expected


def test_diversity_and_duplicates_reach_the_search(capsys, databases, opened, model, encoder):
    arguments = ["a boat", "--k", 5, "--encoder", model, "--diversity", 0.6, "--duplicates", 0.999]
    found = found_by(capsys, databases / "boats", *arguments)
    retriever = Retriever(encoder, opened[:1], diversity=0.6, duplicates=0.999)
    expected = retriever.retrieve(encoder.encode_texts(["a boat"]), 5)
    assert [row for _, row, _ in found] == expected.ids[0].tolist()


# Inspecting.


def size_of(file):
    with Image.open(file) as image:
        image.load()
        return image.size


def test_a_sheet_and_a_map_are_written(capsys, databases, model, tmp_path):
    done(capsys, "sheet", databases / "boats", "--out", tmp_path / "sheet.png", "--number", 5, "--columns", 3)
    done(capsys, "sheet", databases / "boats", "--out", tmp_path / "ink.jpg", "--where", "style=ink")
    assert size_of(tmp_path / "sheet.png")[0] > 3 * 64 and size_of(tmp_path / "ink.jpg")[0] > 8 * 64
    plain, query = tmp_path / "map.png", tmp_path / "query.png"
    done(capsys, "map", databases / "boats", "--out", plain)
    done(capsys, "map", databases / "boats", "--out", query, "--query", "a boat", "--k", 3, "--encoder", model)
    assert size_of(plain) == size_of(query) and plain.read_bytes() != query.read_bytes()
    done(capsys, "sheet", databases / "boats", "--out", tmp_path / "again.png", "--number", 5, "--columns", 3)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "sheet.png").read_bytes()


def test_info_as_json_is_the_manifest(capsys, databases):
    out, _ = done(capsys, "info", databases / "boats", "--json")
    assert json.loads("\n".join(out)) == json.loads((databases / "boats" / "manifest.json").read_text())


def test_list_finds_databases_below_a_folder_and_reports_damaged_ones(capsys, databases, tmp_path):
    root = Path(shutil.copytree(databases, tmp_path / "root" / "all")).parent
    shutil.copytree(databases / "boats", root / ".boats.x7.new")  # an interrupted process may leave this
    shutil.copytree(databases / "boats", root / "damaged")
    next((root / "damaged").glob("items*")).unlink()
    (root / "model").mkdir()
    (root / "model" / "manifest.json").write_text("{}")
    out, err = done(capsys, "list", root)
    assert [line.split()[0] for line in out] == ["boats", "trees"]
    assert "24 rows by tiny, from boats" in out[0] and str(root / "all" / "boats") in out[0]
    assert any("damaged database" in line and "items" in line for line in err)
    assert any("no databases; build one" in line for line in done(capsys, "list", tmp_path / "root" / "model")[1])


def test_verify_reads_all_files(capsys, copy):
    assert "all 3 files match the manifest" in done(capsys, "verify", copy)[1][0]


def test_tune_prints_a_table_and_a_dry_run_stores_nothing(capsys, copy, model, tmp_path):
    before = (copy / "manifest.json").read_bytes()
    queries = tmp_path / "queries"
    queries.write_text("a boat\n\na tree\na boat\n")
    for options, texts in (([], 24), (["--queries", queries], 2)):
        out, err = done(capsys, "tune", copy, "--dry-run", "--k", 3, "--encoder", model, *options)
        assert out[0] == f"24 rows, recall@3 on 24 images, {texts} texts"
        exact = next(line for line in out if line.startswith("exact"))
        assert exact.split()[1:3] == ["1.0000", "1.0000"] and any("fastest with a recall" in line for line in err)
    assert (copy / "manifest.json").read_bytes() == before and not (copy / "index").exists()


# Combining.


def captions(database):
    return [item["caption"] for item in database.items(range(len(database)))]


def test_merge_subset_and_remove(capsys, databases, opened, tmp_path):
    both, some = tmp_path / "both", tmp_path / "some"
    _, err = done(capsys, "merge", databases / "trees", databases / "boats", "--out", both, "--name", "my own")
    assert f"{both}: 42 rows of 2 databases, 0 near-duplicates dropped" in err[0]
    assert captions(Database.open(both)) == captions(opened[1]) + captions(opened[0])
    assert Database.open(both).name == "my own"
    twice = tmp_path / "twice"
    _, err = done(capsys, "merge", both, databases / "boats", "--out", twice, "--duplicates", 1)
    assert "42 rows of 2 databases, 24 near-duplicates dropped" in err[0]
    _, err = done(capsys, "subset", both, "--out", some, "--where", "style=oil", "--limit", 9)
    assert f"{some}: 9 of the 42 rows of 'my own'" in err[0]
    expected = [f"{name} no. {i}" for name, count in (("trees", 18), ("boats", 24)) for i in range(1, count, 3)]
    assert captions(Database.open(some)) == expected[:9]
    listed = tmp_path / "list"
    listed.write_text("# taken down\nartist=Artist 3\n01.png\n")
    _, err = done(capsys, "remove", both, "--list", listed)
    assert f"{both}: 12 rows removed, 30 remain" in err[0]
    assert all(item["attributes"]["artist"] != "Artist 3" for item in Database.open(both).items(range(30)))
    done(capsys, "verify", both)
    info = "\n".join(done(capsys, "info", both)[0])
    assert "remove (selection" in info and "merge (databases ['trees', 'boats'])" in info


def test_append_adds_once(capsys, sets, copy, model):
    arguments = ["build", sets / "trees", "--out", copy, "--append", "--encoder", model]
    assert any("42 rows by encoder 'tiny'" in line for line in done(capsys, *arguments)[1])
    before = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}
    assert any("finished before, 42 rows; nothing has changed" in line for line in done(capsys, *arguments)[1])
    assert {path.name: path.stat().st_mtime_ns for path in copy.iterdir()} == before


def test_processes_share_a_build(capsys, sets, databases, model, tmp_path):
    arguments = ["build", sets / "boats", "--out", tmp_path / "boats", "--encoder", model, "--part-size", 10]
    _, err = done(capsys, *arguments, "--process", "1/2")
    assert any(
        "this process is done; the database is complete when the other processes have done" in line for line in err
    )
    done(capsys, *arguments, "--process", "0/2")
    shared, single = Database.open(tmp_path / "boats"), Database.open(databases / "boats")
    np.testing.assert_array_equal(np.asarray(shared.rows), np.asarray(single.rows))
    assert shared.items(range(24)) == single.items(range(24)) and len(shared.shards) == 3


KILLED = """
import os, signal, sys
import tests.conftest
from rdm_jax.cli import progress
from rdm_jax.cli.main import main

def kill(self, done, total=None):
    if done > 13:
        os.kill(os.getpid(), signal.SIGKILL)

progress.Progress.__call__ = kill
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_build_resumes_after_kill_9(capsys, sets, model, tmp_path):
    out = tmp_path / "boats"
    arguments = ["build", sets / "boats", "--out", out, "--encoder", model, "--part-size", 6, "--workers", 0]
    command = [sys.executable, "-c", KILLED, "database", *map(str, arguments)]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=300)
    assert ran.returncode == -signal.SIGKILL and not out.exists() and (tmp_path / ".boats.partial").is_dir()
    _, err = done(capsys, *arguments)
    assert any("24 rows by encoder 'tiny', 0 skipped, 12 images were done before" in line for line in err)
    arguments[3] = tmp_path / "whole"
    done(capsys, *arguments, "--name", "boats")
    assert same_files(out, tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boats", "whole"]


# Bad input.

BOATS, TREES, NEW = "{databases}/boats", "{databases}/trees", "{new}"
SEARCH = ["search", BOATS, "a boat", "--encoder", "{model}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "--database", f"{BOATS}:1", "--database", TREES, "a"], "trees has no weight, and others have"),
        (["search", "--database", f"{BOATS}:x", "a"], "boats:x"),
        (["search", "--database", f"{BOATS}:-1", "a", "--encoder", "{model}"], "weights -1.0 do not fit"),
        (
            ["search", "--database", f"{BOATS}:1", "--database", f"{BOATS}:1", "a", "--encoder", "{model}"],
            "do not all have different names",
        ),
        ([*SEARCH, "--k", "30"], "k 30 is out of range; boats has 24 rows, give 1 to 24"),
        (
            [*SEARCH, "--k", "9", "--where", "style=ink"],
            "boats has 8 rows that the selection admits (style is one of ink, oil, wax), give 1 to 8",
        ),
        ([*SEARCH, "--where", "style=none"], "boats has 0 rows that the selection admits"),
        ([*SEARCH, "--where", "ink"], "--where 'ink' is not KEY=VALUE"),
        ([*SEARCH, "--exclude-list", "{databases}/nothing"], "cannot read the exclusion list"),
        ([*SEARCH, "--diversity", "2"], "diversity 2.0 is out of range"),
        ([*SEARCH, "--duplicates", "2"], "duplicates 2.0 is not a cosine"),
        ([*SEARCH, "--negative", "a boat", "--negative-weight", "1"], "cancel each other out"),
        ([*SEARCH, "--image-weight", "-1"], "image weight -1.0 is out of range"),
        (["sheet", BOATS, "--out", "{new}.tga"], "unknown image format '.tga'"),
        (["sheet", BOATS, "--out", "{new}.png", "--number", "0"], "argument --number: 0 is out of range"),
        (["sheet", BOATS, "--out", "{new}.png", "--columns", "99"], "argument --columns: 99 is out of range"),
        (["sheet", BOATS, "--out", "{new}.png", "--seed", "-1"], "argument --seed: -1 is out of range"),
        (["sheet", BOATS, "--out", "{new}.png", "--where", "style=none"], "no row of database 'boats' is selected"),
        (["sheet", "{databases}", "--out", "{new}.png"], "is not a database: it has no manifest.json"),
        (["map", BOATS, "--out", "{new}.png", "--method", "tsne"], "unknown method 'tsne'"),
        (["map", BOATS, "--out", "{new}.png", "--where", "path=01.png"], "a map needs 3 rows or more, and there are 1"),
        (["map", BOATS, "--out", "{new}.png", "--number", "2"], "argument --number: 2 is out of range"),
        (
            ["map", BOATS, "--out", "{new}.png", "--query", "a", "--k", "99", "--encoder", "{model}"],
            "k 99 is out of range",
        ),
        (
            ["map", BOATS, "--out", "{new}.png", "--image", "{databases}/x.png", "--encoder", "{model}"],
            "x.png: No such file or directory; check the path",
        ),
        (["merge", BOATS, TREES, "--out", TREES], "exists already"),
        (["merge", BOATS, "{databases}/none", "--out", NEW], "unknown database"),
        (["merge", BOATS, TREES, "--out", NEW, "--duplicates", "0"], "duplicates 0.0 is not a cosine"),
        (["merge", BOATS, TREES, "--out", "gs://bucket/x"], "--out gs://bucket/x is no local folder"),
        (["merge", "--out", NEW], "required"),
        (["subset", BOATS, "--out", NEW, "--where", "style=none"], "no row is left; check the selection"),
        (["subset", BOATS, "--out", NEW, "--limit", "0"], "--limit 0 leaves no rows"),
        (["subset", BOATS, "--out", TREES], "exists already"),
        (["remove", BOATS], "no rows are named"),
        (["remove", BOATS, "--where", "artist=Nobody"], "no row of database 'boats' fits; nothing is removed"),
        (["remove", BOATS, "--where", "style"], "--where 'style' is not KEY=VALUE"),
        (["remove", BOATS, "--list", "{databases}/nothing"], "cannot read the exclusion list"),
        (["remove", "gs://bucket/boats", "--where", "a=b"], "gs://bucket/boats is no local folder"),
        (["verify", "{databases}/none"], "unknown database"),
        (["list", "{databases}/none"], "no folder"),
        (["info", "{databases}", "--json"], "is not a database"),
        (["tune", BOATS, "--k", "25", "--encoder", "{model}"], "--k 25 is out of range; give 1 to 24"),
        (["tune", BOATS, "--dry-run", "--target", "2", "--encoder", "{model}"], "target 2.0 is out of range"),
        (["tune", BOATS, "--queries", "{databases}/none"], "cannot read --queries"),
        (["build", "{sets}/boats", "--out", NEW, "--process", "2/2"], "process 2/2 is out of range"),
        (["build", "{sets}/boats", "--out", NEW, "--process", "half"], "--process 'half' is not I/N"),
        (["build", "{sets}/boats", "--out", NEW, "--patches", "0"], "argument --patches: 0 is out of range"),
        (["build", "{sets}/boats", "--out", NEW, "--patches", "1", "--patch-size", "2000"], "patch size 2000 is out"),
        (
            ["build", "{sets}/boats", "--out", NEW, "--patches", "1", "--patch-seed", "-1"],
            "argument --patch-seed: -1 is out",
        ),
        (["build", "{sets}/boats", "--out", NEW, "--part-size", "0"], "argument --part-size: 0 is out of range"),
        (["build", "{sets}/boats", "--out", NEW, "--workers", "-1"], "argument --workers: -1 is out of range"),
        (["build", "{sets}/boats", "--out", NEW, "--duplicates", "-1"], "duplicates -1.0 is not a cosine"),
        (["build", "{sets}/boats", "--out", NEW, "--where", "style=none"], "no images of boats are left"),
        (["build", "{sets}/boats", "--out", NEW, "--runner", "spark"], "unknown runner 'spark'"),
        (["build", "{sets}/boats", "--out", "gs://bucket/x"], "--out gs://bucket/x is no local folder"),
        (["build", "{sets}/boats", "--out", "{databases}", "--append"], "is not a database"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(
    capsys, databases, sets, model, tmp_path, arguments, message
):
    places = {"databases": databases, "sets": sets, "model": model, "new": tmp_path / "new"}
    given = [argument.format(**places) for argument in arguments]
    if given[0] == "build":
        given += ["--encoder", str(model)]
    before = sorted((path, path.stat().st_mtime_ns) for path in databases.rglob("*"))
    status, out, err = call(capsys, *given)
    errors = [line for line in err if "error:" in line]
    assert status == 2 and len(errors) == 1 and message in errors[0] and "Traceback" not in "".join(err)
    assert not out or given[0] == "tune"
    assert list(tmp_path.iterdir()) == []
    assert sorted((path, path.stat().st_mtime_ns) for path in databases.rglob("*")) == before


def test_an_existing_image_is_not_overwritten(capsys, databases, tmp_path):
    (tmp_path / "a.png").write_text("mine")
    for action in ("sheet", "map"):
        status, _, err = call(capsys, action, databases / "boats", "--out", tmp_path / "a.png")
        assert status == 2 and "exists already and is not overwritten" in err[-1]
    assert (tmp_path / "a.png").read_text() == "mine"


def test_another_encoder_is_refused_everywhere(capsys, databases, sets, copy, model, tmp_path):
    bundle = Bundle.open(model)
    parts = {**bundle.params, "clip": tiny.randomize(bundle.params["clip"], seed=1)}
    other = tmp_path / "other"
    Bundle({**bundle.config, "name": "other"}, parts, bundle.tokenizer).save(other, "float32")
    done(capsys, "build", sets / "trees", "--out", tmp_path / "trees", "--encoder", other)
    for arguments in (
        ["search", copy, "a", "--encoder", other],
        ["map", copy, "--out", tmp_path / "map.png", "--query", "a", "--encoder", other],
        ["tune", copy, "--dry-run", "--encoder", other],
        ["build", sets / "trees", "--out", copy, "--append", "--encoder", other],
        ["search", "--database", copy, "--database", tmp_path / "trees", "a", "--encoder", model],
        ["merge", copy, tmp_path / "trees", "--out", tmp_path / "both"],
    ):
        status, _, err = call(capsys, *arguments)
        assert status == 2 and "was made by encoder" in err[-1], arguments
    assert same_files(copy, databases / "boats")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boats", "other", "trees"]


def test_a_damaged_database_is_named_by_verify(capsys, copy):
    file = next(copy.glob("thumbnails*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    status, _, err = call(capsys, "verify", copy)
    assert status == 2 and f"the SHA-256 of {file.name} is not the one in" in err[-1] and len(err) == 1
