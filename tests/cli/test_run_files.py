"""The folder of a run and the PNG files in it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from rdm_jax.cli import records, run_folder, run_sheets
from rdm_jax.cli.content import ContentRecord
from rdm_jax.cli.png import encode_png, read_record
from rdm_jax.cli.record import encoded_vector, query_vector
from rdm_jax.core import images, sheets
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Result
from rdm_jax.heads.diffusion.options import Options
from rdm_jax.request import Request
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.retrieval.retriever import Neighbors

RNG = np.random.default_rng(0)


def record(prompt="a red boat", **changes):
    return {
        "schema": 2,
        "versions": {"rdm_jax": "0.1.0"},
        "model": {"name": "tiny", "sha256": "ab" * 32},
        "database": {"name": "sketch", "sha256": "cd" * 32},
        "request": {"condition": "neighbors", "neighbors": 4, "seed": 42, "height": 48, "width": 64, "batch_size": 1},
        "options": {"steps": 50},
        "labels": {"Steps": 50, "Sampler": "ddim", "CFG scale": 2.5, "Seed": 42},
        "prompt": prompt,
        "index": 3,
        "query": "AACAPwAAAMA=",
        "neighbors": {"ids": [1], "scores": [0.5]},
        "rendition": {
            "svg": True,
            "transparent": True,
            "size": 48,
            "palette": {"kind": "flat", "background": [255, 255, 255], "colors": [[0, 0, 0]]},
        },
        "content": {
            "ids": [2],
            "scores": [0.9],
            "databases": ["icons"],
            "sha256": {"icons": "ef" * 32},
            "known": True,
            "nearest": [],
        },
        **changes,
    }


def result(prompts, num_images, k=2, size=16):
    count = len(prompts) * num_images
    request = Request(neighbors=k, num_images=num_images, batch_size=8, seed=7, height=size, width=size)
    return Result(
        images=RNG.integers(0, 256, (count, size, size, 3), dtype=np.uint8),
        prompts=[prompt for prompt in prompts for _ in range(num_images)],
        indices=list(range(count)),
        queries=RNG.standard_normal((count, 2)).astype(np.float32),
        neighbors=Neighbors(
            ids=np.arange(count * k, dtype=np.int64).reshape(count, k),
            scores=np.linspace(1, 0, count * k, dtype=np.float32).reshape(count, k),
            embeddings=np.zeros((count, k, 2), np.float32),
            databases=np.full((count, k), "sketch"),
        ),
        request=request,
        options=Options(),
    )


class Thumbnails(Mixture):
    """As much of a database as a sheet needs."""

    name = "sketch"

    def __init__(self):
        object.__setattr__(self, "databases", [None])

    def thumbnails(self, names, ids):
        return np.stack([np.full((8, 8, 3), int(i), np.uint8) for i in ids])


@pytest.mark.parametrize(
    "prompt", ["a red boat", 'a "boat", red: very', "ein rotes Boot, größer", "красная лодка", "船"]
)
def test_a_png_carries_its_record(tmp_path, prompt):
    image = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(encode_png(image, record(prompt)))
    read, pixels = read_record(tmp_path / "a.png")
    assert read == record(prompt)
    assert np.array_equal(pixels, image)
    assert Image.open(tmp_path / "a.png").text["parameters"].startswith(f"{prompt}\nSteps: 50, Sampler: ddim, ")


def test_the_parameters_parse_as_galleries_parse_them():
    with Image.open(io.BytesIO(encode_png(np.zeros((8, 8, 3), np.uint8), record()))) as image:
        prompt, line = image.text["parameters"].split("\n")
    # The pattern of AUTOMATIC1111's parser, which takes a last line of three pairs or more.
    found = dict(re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', line))
    assert prompt == "a red boat"
    assert found["Seed"] == "42"
    assert found["CFG scale"] == "2.5"
    assert found["Size"] == "64x48"
    assert found["Model hash"] == "ababababab"
    assert found["Database"] == "sketch"
    assert found["kNN"] == "4"


def test_metadata_can_be_left_out(tmp_path):
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    assert not Image.open(tmp_path / "a.png").text
    with pytest.raises(UserError, match="carries no parameters"):
        read_record(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable PNG"),
        (b"hello", "not a readable PNG"),
        (encode_png(np.zeros((8, 8, 3), np.uint8), record())[:-60], "not a readable PNG|cannot read"),
        (encode_png(np.zeros((8, 8, 3), np.uint8), record(schema=9)), "schema 9"),
    ],
)
def test_damaged_files_are_refused(tmp_path, data, message):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_record(tmp_path / "a.png")
    with pytest.raises(UserError, match="cannot read"):
        read_record(tmp_path / "missing.png")


def test_a_used_folder_gets_the_next_run(tmp_path):
    names = []
    for _ in range(3):
        with run_folder.claimed(tmp_path / "out") as folder:
            run_folder.write_new(folder / "00000-1.png", b"x")
        names.append(folder.relative_to(tmp_path).as_posix())
    assert names == ["out", "out/run-002", "out/run-003"]
    assert len(list(tmp_path.rglob("*.png"))) == 3


def test_images_in_sub_folders_count_too(tmp_path):
    for expected in ("out", "out/run-002"):
        with run_folder.claimed(tmp_path / "out", ["one", "two"]) as folder:
            run_folder.write_new(folder / "one" / "00000-1.png", b"x")
        assert folder == tmp_path / expected
        assert not (folder / "two").exists()


def test_other_files_do_not_make_a_folder_used(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with run_folder.claimed(tmp_path) as folder:
        assert folder == tmp_path


def test_a_run_that_fails_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError), run_folder.claimed(tmp_path / "a" / "b", ["one"]):
        raise RuntimeError
    assert not (tmp_path / "a").exists()


def test_nothing_is_overwritten(tmp_path):
    run_folder.write_new(tmp_path / "a.png", b"first")
    with pytest.raises(UserError, match="not overwritten"):
        run_folder.write_new(tmp_path / "a.png", b"second")
    assert (tmp_path / "a.png").read_bytes() == b"first"


def test_a_file_that_cannot_be_finished_is_not_there(tmp_path, monkeypatch):
    def full(path, data, **_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rdm_jax.core.files.write_bytes", full)
    with pytest.raises(UserError, match=r"a\.png: No space left on device; make room"):
        run_folder.write_new(tmp_path / "a.png", b"x")
    assert not list(tmp_path.iterdir())


def test_runs_that_overlap_have_folders_of_their_own(tmp_path, capsys):
    with run_folder.claimed(tmp_path / "out") as first, run_folder.claimed(tmp_path / "out") as second:
        assert (first, second) == (tmp_path / "out", tmp_path / "out" / "run-002")
        run_folder.write_new(first / "00000-1.png", b"x")
    assert "holds a run already, finished or not; this one is in" in capsys.readouterr().err
    assert json.loads((first / "run.json").read_text())["complete"] is False
    assert not second.exists()  # it wrote nothing


def test_folders_that_cannot_be_written_are_refused_before_anything_is_done(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        run_folder.check_writable(tmp_path / "file" / "out")
    with pytest.raises(UserError, match="is not a folder"):
        run_folder.check_writable(tmp_path / "file")
    run_folder.check_writable(tmp_path / "new" / "er")
    assert not (tmp_path / "new").exists()


def test_folders_without_permission_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match="permission denied"):
        run_folder.check_writable(tmp_path)


def test_the_query_vector_survives_bit_for_bit():
    assert query_vector(record()).tolist() == [1.0, -2.0]
    vector = RNG.standard_normal(7).astype(np.float32)
    assert query_vector(record(query=encoded_vector(vector))).tolist() == vector.tolist()


def changes(value, path=()):
    """Yields (path, value) of every value of a record, and others in its place."""
    for key, inner in value.items():
        for other in (None, 5, -1, 2**70, "x", [], {}, [5], float("inf"), "removed"):
            yield (*path, key), other
        if isinstance(inner, dict):
            yield from changes(inner, (*path, key))


def test_a_record_with_any_other_value_is_read_or_refused_in_one_line(tmp_path):
    """Whatever stands in a file of others: a record that is read has values of the declared types."""
    refused = 0
    for path, other in changes(record()):
        changed = copy.deepcopy(record())
        place = functools.reduce(lambda inner, key: inner[key], path[:-1], changed)
        place.pop(path[-1]) if other == "removed" else place.update({path[-1]: other})
        chunk = {"rdm": json.dumps(changed)}
        (tmp_path / "a.png").write_bytes(images.encode(np.zeros((8, 8, 3), np.uint8), chunk))
        try:
            read, _ = read_record(tmp_path / "a.png")
            assert isinstance(read["index"], int) and isinstance(read["model"]["sha256"], str)
            query_vector(read)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100


def at(sheet, image, zoom):
    """Returns the row and column of an enlarged image's corner on a sheet; None if the image is not on it."""
    big = np.repeat(np.repeat(image, zoom, 0), zoom, 1)
    windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], big.shape[:2])[..., ::zoom, ::zoom]
    found = np.argwhere((windows == image[..., 0]).all((-1, -2)))
    return tuple(found[0].tolist()) if len(found) else None


def test_the_grid_has_prompts_by_samples():
    generated = result(["a", "b"], 3)
    sheet = run_sheets.grid_sheet([("", generated)])
    places = [at(sheet, image, 8) for image in generated.images]
    rows, columns = {place[0] for place in places}, {place[1] for place in places}
    assert (len(rows), len(columns)) == (2, 3)
    assert places == sorted(places)


def test_the_grid_has_styles_by_samples():
    generated = [(style, result(["a"], 2)) for style in ("one", "two", "three")]
    sheet = run_sheets.grid_sheet(generated)
    places = [at(sheet, image, 8) for _, one in generated for image in one.images]
    assert len({place[0] for place in places}) == 3
    assert places == sorted(places)


def test_many_samples_of_one_prompt_are_wrapped():
    generated = result(["a"], 11)
    places = [at(run_sheets.grid_sheet([("", generated)]), image, 8) for image in generated.images]
    assert len({place[1] for place in places}) == 8
    assert len({place[0] for place in places}) == 2


def test_each_sample_stands_beside_its_neighbors():
    generated = result(["a", "b"], 1)
    sheet = run_sheets.neighbor_sheet(generated, Thumbnails())
    for row, image in enumerate(generated.images):
        y, x = at(sheet, image, 8)
        thumbnails = [sheet[y + 64, x + 64 + column * (128 + 8)] for column in (1, 2)]
        assert [int(pixel[0]) for pixel in thumbnails] == generated.neighbors.ids[row].tolist()


def test_sheets_stop_growing(monkeypatch):
    generated = result([str(i) for i in range(20)], 2)
    whole = run_sheets.grid_sheet([("", generated)])
    monkeypatch.setattr(run_sheets, "SHEET_PIXELS", 5 * 2 * 128 * 128)
    part = run_sheets.grid_sheet([("", generated)])
    assert part.shape[0] * 3 < whole.shape[0]
    assert run_sheets.neighbor_sheet(generated, Thumbnails()).shape[0] < whole.shape[0] / 3
    assert tuple(part[0, 0]) == sheets.BACKGROUND


class Shown(ContentRecord):
    """Content that is as dark as the image's number."""

    def __init__(self):
        pass

    def shown(self, index):
        return np.full((16, 16, 3), 100 + index, np.uint8), 0.25


def test_what_showed_the_content_stands_between_the_sample_and_its_neighbors():
    generated = result(["a", "b"], 1)
    sheet = run_sheets.neighbor_sheet(generated, Thumbnails(), Shown())
    for row, image in enumerate(generated.images):
        y, x = at(sheet, image, 8)
        cells = [int(sheet[y + 64, x + 64 + column * (128 + 8)][0]) for column in (1, 2, 3)]
        assert cells == [100 + row, *generated.neighbors.ids[row].tolist()]


def test_a_prompt_that_no_content_is_near_is_marked_on_the_sheets():
    generated = dataclasses.replace(result(["a", "b"], 1), known=np.array([True, False]))
    assert records.marked(generated) == ["a", f"b {records.UNKNOWN}"]
    assert records.marked(result(["a"], 2)) == ["a", "a"]
