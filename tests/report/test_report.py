"""Reports of synthetic folders: nothing of different definitions in one row, every number in the CSV, one HTML file."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdm_jax.cli.main import main
from rdm_jax.core.errors import UserError
from rdm_jax.report import plots
from rdm_jax.report.blocks import File, Heading, Items, Paragraph, Table, markdown, page, parse
from rdm_jax.report.evaluations import comparison_rows
from rdm_jax.report.report import make_report
from rdm_jax.report.settings import differing
from rdm_jax.report.sources import Evaluation, read_sources, short_names


def metric(title, value, name="fid", **parameters):
    row = {"metric": name, "network": "net", "title": title, "value": value, "better": "lower"}
    return {**row, "low": value - 1, "high": value + 1, "std": None, "parameters": parameters}


def evaluation(folder, value, *, reference="a" * 64, images=100, **changes):
    folder.mkdir(parents=True)
    results = {
        "arguments": {"resize": "clean"},
        "images": {"name": folder.name, "images": images, "formats": {".png": images}},
        "reference": {"name": "real", "images": 50, "formats": {".png": 50}, "sha256": reference},
        "features": [{"name": "net", "sha256": "b" * 64}],
        "metrics": [
            metric("FID", value),
            metric("precision", value / 100, "prdc", k=3),
            metric("recall", 1 - value / 100, "prdc", k=3),
            metric("class score", value + 1, "is"),
        ],
        "remarks": [],
        "generation": {"options": {"steps": int(value)}},
        **changes,
    }
    (folder / "results.json").write_text(json.dumps(results))
    return str(folder)


def training(folder, losses, **config):
    (folder / "figures").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"steps": 20, **config}))
    lines = [json.dumps({"step": step, "loss": loss, "eval_loss": loss * 2}) for step, loss in losses]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 99, "lo']))
    for step in (1, 10):
        pixels = np.full((4, 4, 3), step, np.uint8)
        Image.fromarray(pixels).save(folder / "figures" / f"samples-{step:08d}.png")
    return str(folder)


def tables(blocks):
    return [block for block in blocks if isinstance(block, Table)]


def lines(blocks):
    return [line for block in blocks if isinstance(block, Items) for line in block.lines]


def test_evaluations_of_one_definition_share_a_row(tmp_path):
    places = [evaluation(tmp_path / name, value) for name, value in (("a", 10.0), ("b", 20.0))]
    blocks = make_report(read_sources(places))
    table, settings = tables(blocks)
    assert table.head == ["metric", "a", "b", "better"]
    assert table.rows[0] == ["FID", "10 (9 to 11)", "20 (19 to 21)", "lower"]
    assert len(table.rows) == 4
    assert ["generation.options.steps", "10", "20"] in [list(row) for row in settings.rows]


@pytest.mark.parametrize(
    ("changes", "named", "kept"),
    [
        ({"reference": "c" * 64}, "FID, reference.sha256: [1] aaaaaaaaaa, [2] cccccccccc", 1),
        ({"images": 200}, "FID, images.images: [1] 100, [2] 200", 0),
        ({"arguments": {"resize": "legacy"}}, "FID, resize: [1] clean, [2] legacy", 0),
        ({"features": [{"name": "net", "sha256": "d" * 64}]}, "FID, feature network.0.sha256: [1] bbbbbbbbbb", 0),
    ],
)
def test_different_definitions_are_never_in_one_row(tmp_path, changes, named, kept):
    places = [evaluation(tmp_path / "a", 10.0), evaluation(tmp_path / "b", 20.0, **changes)]
    sources = read_sources(places)
    rows = comparison_rows([one for one in sources if isinstance(one, Evaluation)])
    assert [set(row.cells) for row in rows if row.title.startswith("FID")] == [{"a"}, {"b"}]
    # A class score has no reference: another one changes nothing.
    assert sum(len(row.cells) == 2 for row in rows) == kept
    assert any(line.startswith(named) for line in lines(make_report(sources)))


def test_training_runs_have_last_and_least_values_and_their_differences(tmp_path):
    places = [
        training(tmp_path / "a", [(1, 3.0), (5, 1.0), (10, 2.0)], learning_rate=0.1),
        training(tmp_path / "b", [(1, 3.0), (10, 0.5)], learning_rate=0.2),
    ]
    blocks = make_report(read_sources(places))
    values, settings = tables(blocks)
    assert ["loss", "2 at 10; least 1 at 5", "0.5 at 10"] in [list(row) for row in values.rows]
    assert [list(row) for row in settings.rows] == [["learning_rate", "0.1", "0.2"]]
    (file,) = [block for block in blocks if isinstance(block, File) and block.name == "curve-loss.csv"]
    rows = list(csv.reader(io.StringIO(file.data.decode())))
    assert rows == [["step", "a", "b"], ["1", "3.0", "3.0"], ["5", "1.0", ""], ["10", "2.0", "0.5"]]
    shown = [block.caption for block in blocks if isinstance(block, File) and "samples" in block.name]
    assert shown == ["a, samples at step 10", "b, samples at step 10"]


def test_plots_have_their_numbers_beside_them(tmp_path):
    pytest.importorskip("matplotlib")
    places = [evaluation(tmp_path / name, value) for name, value in (("a", 10.0), ("b", 20.0))]
    blocks = make_report(read_sources([*places, training(tmp_path / "c", [(1, 2.0), (3, 1.0)])]))
    files = {block.name: block for block in blocks if isinstance(block, File)}
    plotted = [name for name in files if name.startswith(("curve", "precision"))]
    assert sorted(plotted) == sorted(
        f"{name}.{kind}" for name in ("curve-loss", "curve-eval-loss", "precision-recall-1") for kind in ("png", "csv")
    )
    assert Image.open(io.BytesIO(files["curve-loss.png"].data)).size == (800, 450)
    rows = list(csv.reader(io.StringIO(files["precision-recall-1.csv"].data.decode())))
    assert rows == [["", "recall", "precision"], ["a", "0.9", "0.1"], ["b", "0.8", "0.2"]]


def test_without_matplotlib_the_tables_and_csv_files_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "available", lambda: False)
    blocks = make_report(read_sources([training(tmp_path / "a", [(1, 2.0), (3, 1.0)])]))
    assert Paragraph(plots.MISSING) in blocks
    assert len(tables(blocks)) == 1
    assert {block.name for block in blocks if isinstance(block, File)} == {
        "curve-loss.csv",
        "curve-eval-loss.csv",
        "a-samples-at-step-10.png",
    }


def test_the_page_needs_no_other_file_and_escapes_what_it_shows():
    data = b"\x89PNG\r\n"
    text = page([Heading(1, "<b>"), Table(["<i>"], [["a & b"]]), File("x.png", data, '"x"')], "<t>")
    assert "<b>" not in text and "<i>" not in text and "&lt;b&gt;" in text and "a &amp; b" in text
    assert "<script" not in text
    (source,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(source) == data
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)


def test_markdown_of_other_measures_is_read_as_blocks():
    blocks = [Heading(1, "Style swap"), Paragraph("Legend."), Table(["arm", "rate"], [["own", "97 (95-98)"]])]
    assert parse(markdown(blocks, "files"), below=2) == [Heading(3, "Style swap"), *blocks[1:]]


def test_settings_are_compared_whole():
    long = "x" * 100
    assert differing([{"a": {"b": 1, "c": long + "1"}}, {"a": {"b": 1, "c": long + "2"}}])[0][0] == "a.c"
    assert differing([{"a": None}, {}]) == [("a", ["none", "-"])]
    assert differing([{"a": [1, 2]}, {"a": [1, 2]}]) == []


def test_names_are_as_short_as_they_can_be():
    assert short_names([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert short_names([Path("/x/a/out"), Path("/x/b/out")]) == ["a/out", "b/out"]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "there is no folder"),
        (lambda folder: folder.mkdir(), "has nothing to report"),
        (lambda folder: (folder.mkdir(), (folder / "results.json").write_text("{")), "cannot be read"),
        (lambda folder: (folder.mkdir(), (folder / "results.json").write_text("[]")), "holds no JSON object"),
    ],
)
def test_bad_folders_are_one_clear_line(tmp_path, prepare, message):
    prepare(tmp_path / "one")
    with pytest.raises(UserError, match=message):
        read_sources([str(tmp_path / "one")])


def test_damaged_results_and_repeated_folders_are_refused(tmp_path):
    place = evaluation(tmp_path / "a", 10.0, metrics=[{"title": "FID"}])
    with pytest.raises(UserError, match="results of a are damaged"):
        make_report(read_sources([place]))
    with pytest.raises(UserError, match="given twice"):
        read_sources([place, f"{place}/."])
    with pytest.raises(UserError, match="is an address"):
        read_sources(["gs://bucket/run"])


def test_the_command_writes_markdown_files_and_the_page(tmp_path, monkeypatch, own_environment, capsys):
    monkeypatch.chdir(tmp_path)
    place = evaluation(tmp_path / "results", 10.0)
    samples = tmp_path / "results" / "samples"
    samples.mkdir()
    (samples / "run.json").write_text(
        json.dumps(
            {
                "model": {"name": "tiny"},
                "databases": [{"name": "one"}],
                "request": {"seed": 7},
                "options": {"steps": 4},
                "sweep": [{"key": "seed", "values": ["7", "8"]}],
            }
        )
    )
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(samples / "grid.png")
    other = training(tmp_path / "run", [(1, 2.0)])
    for expected in ("report", "report/run-002"):
        assert main(["report", place, other]) == 0, capsys.readouterr().err
        assert capsys.readouterr().out == f"{expected}\n"
    text = Path("report/report.md").read_text()
    linked = re.findall(r"\]\((files/[^)]+)\)", text)
    assert linked and all(Path("report", name).is_file() for name in linked)
    assert "| FID | 10 (9 to 11) | lower |" in text
    assert "sweep: seed=7,8" in text and "model and databases: tiny, one" in text
    assert "FID" in Path("report/report.html").read_text()
    assert main(["report", "nowhere"]) == 2
    assert "there is no folder nowhere" in capsys.readouterr().err
