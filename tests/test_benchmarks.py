"""benchmarks/ measure everything that there is, and their small calculations are right."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rdm_jax import conditioning, guidance
from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.samplers import SAMPLERS
from rdm_jax.generator import Generator
from rdm_jax.retrieval.database import Database
from tests.helpers import tiny

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_path(monkeypatch) -> None:
    """Imports work as in a script of that folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def job(tmp_path) -> Any:
    """A job without a model."""
    config = {"noised_classifier": {"classes": {"colour": ["red", "blue"]}}, "sampling": {"width": 64}}
    databases = [SimpleNamespace(databases=[SimpleNamespace(name=name)]) for name in ("neon", "poster")]
    return SimpleNamespace(
        steps=50,
        folder=tmp_path,
        file=lambda name: f"{name}.png",
        generator=SimpleNamespace(bundle=SimpleNamespace(config=config)),
        retriever=databases[0],
        other=databases[1],
    )


def test_every_sampler_guide_and_conditioner_is_measured(job) -> None:
    from sampling_tables.cases import CASES

    cases = {name: list(make(job)) for name, make in CASES.items()}
    assert {case.options.get("sampler", "ddim") for case in cases["samplers"]} == set(SAMPLERS)
    for name, table in (("guides", guidance.GUIDES), ("conditions", conditioning.CONDITIONERS)):
        measured = {type(value) for case in cases[name] for value in case.options.get(name, ())}
        assert measured == set(table.values()) - {conditioning.Fill}  # which only inpainting models take


def test_every_network_of_a_guide_is_measured_alone(job) -> None:
    from sampling_tables.cases import CASES
    from sampling_tables.networks import OTHERS

    assert {name for case in CASES["guides"](job) for name in case.networks} == set(OTHERS)


def test_every_form_of_input_changes(job) -> None:
    from sampling_tables.compilations import changes

    table = list(changes(job))
    changed = [what.rpartition(": ")[2] for what, before, after in table if before != after]
    assert len(changed) == len(table)
    assert {"weight", "prompt", "mask", "reference", "database", "seed"} <= set(changed)


def test_each_round_starts_with_another_program() -> None:
    from rounds import interleave, paired

    order: list[str] = []
    times = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [len(seconds) for seconds in times.values()] == [3, 3]
    assert paired([2.0, 9.0, 4.0], [1.0, 3.0, 2.0]) == 2.0


def test_distances_and_the_fewest_steps() -> None:
    from sampling_tables.quality import distance, fewest_steps

    reference = np.ones((3, 2, 2, 1))
    assert distance(1.1 * reference, reference) == pytest.approx(0.1)
    assert fewest_steps({10: 0.5, 15: 0.2, 20: 0.1}, 0.2) == 15
    assert fewest_steps({10: 0.5}, 0.2) is None


def test_a_moment_counts_for_the_innermost_span() -> None:
    from sampling_tables.spans import seconds_of

    spans = [("load", 1.0, 5.0), ("import", 2.0, 3.0), ("trace", 2.25, 2.5), ("trace", 4.0, 5.0), ("load", 6.0, 7.0)]
    seconds = seconds_of(spans[::-1], 0.0, 8.0)
    assert seconds == {"": 3.0, "load": 3.0, "import": 0.75, "trace": 1.25}
    # A span that ends after the whole, and one that ends after the one around it, as a clock's rounding has it.
    assert seconds_of([("a", 1.0, 3.0), ("b", 2.0, 3.5)], 0.0, 3.25) == {"": 1.25, "a": 1.0, "b": 1.0}


def test_a_recorder_patches_functions_and_static_methods() -> None:
    import threading

    from sampling_tables.spans import Recorder

    class Model:
        @staticmethod
        def load(name: str) -> str:
            return name

        def run(self) -> int:
            raise ValueError

    recorder = Recorder()
    recorder.patch(Model, "load", "loading")
    recorder.patch(Model, "run", "running")
    assert Model.load("x") == "x" == Model().load("x")
    with pytest.raises(ValueError):
        Model().run()
    thread = threading.Thread(target=Model.load, args=("other thread",))
    thread.start()
    thread.join()
    assert [part for part, _, _ in recorder.spans] == ["loading", "loading", "running"]
    assert all(begin <= end for _, begin, end in recorder.spans)


@pytest.mark.slow
def test_the_time_of_the_shell_adds_up(tmp_path) -> None:
    from sampling_tables import shell

    from tests.helpers import tiny

    tiny.bundle().save(tmp_path / "model")
    database = tiny.database(tmp_path, "squares", Bundle.open(tmp_path / "model"))
    job = SimpleNamespace(
        generator=SimpleNamespace(bundle=SimpleNamespace(path=tmp_path / "model")),
        retriever=SimpleNamespace(databases=[SimpleNamespace(path=database)]),
        prompt="a red boat",
        num_images=1,
        steps=2,
        rounds=1,
    )
    table = [line.strip("| ").split(" | ") for line in shell.lines(job) if line.startswith("| ")]
    assert [row[0] for row in table] == ["seconds", *shell.PARTS, "total"]
    columns = [[float(row[column]) for row in table[1:]] for column in range(1, len(table[0]))]
    empty, warm, full = columns
    for column in columns:
        assert sum(column[:-1]) == pytest.approx(column[-1], abs=0.2)
    at = shell.PARTS.index
    assert warm[at("compilation")] < empty[at("compilation")]
    assert warm[at("imports")] > 0.1 and warm[at("tracing")] > 0
    assert full[at("SVG")] + full[at("previews")] > 0 == warm[at("SVG")]


def step_images(run: Any, features: np.ndarray, pixels: int) -> Any:
    """Images of one color with given features, classified as a star."""
    from few_steps import Images

    from rdm_jax.evaluation.classifiers import Classification

    named = {"style": ["neon"] * len(features), "subject": ["star"] * len(features), "colour": ["red"] * len(features)}
    images = np.full((len(features), 4, 4, 3), pixels, np.uint8)
    return Images(run, images, Classification(named, features.astype(np.float32)))


def test_runs_of_few_steps_count_their_evaluations() -> None:
    from few_steps import REFERENCE, runs_of

    guided, plain = (list(runs_of("style-scenes", [], scale)) for scale in (2.0, 1.0))
    assert [run.evaluations for run in guided] == [2 * run.steps for run in guided]
    assert [run.evaluations for run in plain] == [run.steps for run in plain]
    students = list(runs_of("style-scenes", ["style-scenes-fast", "style-scenes-fast:3"], 2.0))[-2:]
    assert [run.evaluations for run in students] == [4, 3]
    with pytest.raises(UserError, match="style-scenes is no student"):
        list(runs_of("style-scenes", ["style-scenes"], 2.0))
    assert REFERENCE in {(run.curve, run.steps) for run in guided}
    assert len({run.title for run in guided}) == len(guided)


def test_measures_of_few_steps() -> None:
    from few_steps import HEAD, measure, rows_of, runs_of

    from rdm_jax.evaluation.classifiers import AttributeClassifier

    run, other = list(runs_of("style-scenes", [], 2.0))[:2]
    features = np.random.default_rng(0).normal(size=(12, 3))
    labels = [{"style": "neon", "subject": "star", "colour": "red"}] * 8
    labels += [{"style": "poster", "subject": "star", "colour": "red"}] * 4
    classifier = AttributeClassifier.open()
    reference, moved = step_images(run, features, 10), step_images(other, features + np.array([0.0, 2.0, 0.0]), 13)
    real = step_images(run, features[:8], 10).classified
    same = measure(classifier, reference, reference, real, labels)
    assert (same["style"]["rate"], same["style"]["count"]) == (1.0, 8)
    assert (same["named_style"]["rate"], same["named_style"]["count"]) == (0.0, 4)
    assert same["frechet"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert (same["pixels"]["mean"], same["features"]["mean"]) == (0.0, 0.0)
    found = measure(classifier, moved, reference, real, labels)
    assert found["frechet"]["value"] == pytest.approx(4.0, abs=1e-4)
    assert (found["pixels"]["mean"], found["features"]["mean"]) == (3.0, pytest.approx(2.0))
    reached = {**{name: same[name] for name in ("style", "subject", "colour")}, "frechet": 1.0}
    rows = rows_of({"runs": [same, found], "real": reached})
    assert [len(row) for row in rows] == [len(HEAD)] * 3


@pytest.mark.slow
def test_a_sheet_of_icons_has_a_row_for_each_style(tmp_path) -> None:
    import icon_sheet

    generator = Generator.load(tiny.bundle_with_roles())
    folders = [tiny.database(tmp_path, name, generator.bundle, seed=seed) for seed, name in enumerate("abc")]
    found = icon_sheet.databases(tmp_path, folders[1])
    assert [one.name for one in found] == ["a", "c"]
    own = found[0].thumbnails(np.array([0]))[0]
    images = icon_sheet.sheet(generator, found, Database.open(folders[1]), ("square 3", "square 8"), steps=2)
    assert images.shape[1] > images.shape[0]  # four of their own and two words in each of two rows
    near = np.abs(images.astype(int) - own[8, 8].astype(int)).max(-1) < 24  # thumbnails are stored with losses
    assert near.sum() >= 32 * 32 // 2  # of 16x16 pixels, shown twice as large


PRINTED = """a machine

| network | program | ms | quartiles |
|---|---|---|---|
| unet | rdm_jax | 1,200.0 | 1 to 2 |
| unet | eager (best of PyTorch) | 1800.0 | |
| clip | rdm_jax | 2.0 | |
| clip | eager | 1.0 | |

| images | peak memory, MB |
| --- | --- |
| 8 | 3 |
"""


def test_the_table_of_all_benchmarks_compares_medians_within_a_case() -> None:
    import all as everything

    times = everything.Benchmark((), "ms", case=("network",))
    rows = everything.rows_of("networks", times, PRINTED)
    assert [(row[1], row[2], row[5]) for row in rows] == [
        ("unet", "rdm_jax", "1.00"),
        ("unet", "eager (best of PyTorch)", "1.50"),
        ("clip", "rdm_jax", "1.00"),
        ("clip", "eager", "0.50"),
    ]
    speeds = "| program | images per second |\n| --- | --- |\n| rdm_jax | 30.0 |\n| other | 10.0 |\n"
    (_, other) = everything.rows_of("evaluation", everything.BENCHMARKS["evaluation"], speeds)
    assert other[2:] == ["other", "10.0", "images per second", "3.00"]
    for printed, reason in (("nothing", "no table with"), (speeds.replace("rdm_jax", "x"), "no program of rdm_jax")):
        with pytest.raises(ValueError, match=reason):
            everything.rows_of("evaluation", everything.BENCHMARKS["evaluation"], printed)


def test_the_benchmarks_of_the_table_are_scripts_with_these_options_and_columns() -> None:
    import all as everything
    from indexes import CONTENDERS

    for benchmark in everything.BENCHMARKS.values():
        text = "".join(
            file.read_text() for file in (BENCHMARKS / benchmark.words[0], *BENCHMARKS.glob("*_tables/*.py"))
        )
        for part in (benchmark.value, benchmark.program, *benchmark.case):
            assert part in text, f"{benchmark.words[0]} prints no {part}"
        assert [word for word in benchmark.words if word.startswith("--") and f'"{word}"' not in text] == []
    assert set(everything.INDEXES) == set(CONTENDERS)
    assert CONTENDERS[everything.INDEXES[0]].name.startswith(everything.OURS)


@pytest.mark.slow
def test_all_benchmarks_run_and_what_cannot_is_named(tmp_path, monkeypatch) -> None:
    import all as everything

    small = ("retrieval.py", "--only", "index", "--sizes", "2000", "--indexes", "exact", "numpy")
    named = everything.BENCHMARKS["retrieval"]
    monkeypatch.setattr(
        everything,
        "BENCHMARKS",
        {
            "retrieval": everything.Benchmark(small, named.value, named.program),
            "broken": everything.Benchmark(("retrieval.py", "--indexes", "none"), "ms"),
        },
    )
    assert everything.main(["--out", str(tmp_path / "page.md")]) == 1
    text = (tmp_path / "page.md").read_text()
    (table,) = everything.tables(text)
    assert [row["program"] for row in table] == ["rdm_jax, exact", "NumPy"]
    assert table[0]["ratio"] == "1.00" and float(table[1]["ratio"]) > 0
    assert "Not measured:" in text and "- broken: " in text and "invalid choice" in text
    assert "jax 0." in text and "Python 3." in text


@pytest.mark.slow
def test_what_a_machine_bears_is_measured(tmp_path, capsys) -> None:
    import argparse

    import scale

    args = argparse.Namespace(images=40, part=16, shards=6)
    for name in ("sources", "part", "shards"):
        (tmp_path / name).mkdir()
        scale.TABLES[name](args, tmp_path / name)
    printed = capsys.readouterr().out
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith(("| folder", "| tar"))]
    assert [len(row) for row in rows] == [5, 5] and all(float(row[2]) > 50 for row in rows)  # bytes of each name
    assert "for each of 40 images" in printed and "a database of 6 shards: opened in" in printed
    assert len(list((tmp_path / "sources/folder").rglob("*.jpg"))) == 40


def test_every_index_has_a_curve_with_its_name(tmp_path) -> None:
    import index_plot
    from indexes import CONTENDERS

    for place, key in enumerate(CONTENDERS):
        for rows in (1000, 100_000):
            measured = {"rows": rows, "single": 1e-6 * rows * (1 + place), "peaks": {"RssAnon": 1e8 + 1e7 * place}}
            (tmp_path / f"rows-{rows}" / key).mkdir(parents=True)
            (tmp_path / f"rows-{rows}" / key / "measured-images.json").write_text(json.dumps(measured))
    index_plot.plot(tmp_path, "images", tmp_path / "growth.svg")
    text = (tmp_path / "growth.svg").read_text()
    assert all(text.count(f">{contender.name}<") == 2 for contender in CONTENDERS.values())  # one in each panel
    assert len(set(index_plot.COLORS)) == len(index_plot.COLORS) == len(CONTENDERS)


def test_names_are_moved_apart_as_little_as_possible() -> None:
    from index_plot import _apart

    assert _apart([0.0, 0.5, 1.0], 0.1, 0.0, 1.0) == [0.0, 0.5, 1.0]
    assert np.allclose(_apart([0.5, 0.5], 0.2, 0.0, 1.0), [0.4, 0.6])
    crowded = _apart([0.9, 0.95, 1.0], 0.2, 0.0, 1.0)
    assert np.allclose(crowded, [0.6, 0.8, 1.0])
