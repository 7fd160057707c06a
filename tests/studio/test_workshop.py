"""Generating, choosing neighbors, editing and the history, without the page."""

from __future__ import annotations

import shlex
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from rdm_jax.core.errors import UserError
from rdm_jax.core.images import read_image
from rdm_jax.retrieval.database import Database
from rdm_jax.studio import history
from rdm_jax.studio.choice import CONTENT, STYLE, Choice, Choices
from rdm_jax.studio.jobs import Job
from rdm_jax.studio.wanted import Wanted, options_of_model

OPTIONS = {"steps": 2, "num_images": 2, "seed": 5, "condition": "neighbors", "neighbors": 3}


def result_of(job: Job):
    *_, last = job.statuses()
    assert not last.error, last.error
    return last.result


def error_of(job: Job) -> str:
    *_, last = job.statuses()
    assert last.result is None
    return last.error


def wanted(workshop, *prompts: str, database: str = "squares", **options) -> Wanted:
    return Wanted(prompts, databases=(workshop.places.database(database),), options={**OPTIONS, **options})


def chosen(style: Choice) -> Choices:
    return Choices(style=style)


def of_roles(workshop, *prompts: str, content_neighbors: int = 2) -> Wanted:
    databases = {"databases": "squares", "content_databases": "others"}
    names = {key: (workshop.places.database(name),) for key, name in databases.items()}
    options = {**OPTIONS, "condition": "text+neighbors", "content_neighbors": content_neighbors, "batch_size": 1}
    return Wanted(prompts, options=options, **names)


def of_role(role: str, workshop, wanted: Wanted, choices: Choices) -> list[tuple[str, int]]:
    return [one.row for one in workshop.neighbors("roles", wanted, choices) if one.role == role]


def contents(workshop, wanted: Wanted, choice: Choice) -> list[tuple[str, int]]:
    return of_role(CONTENT, workshop, wanted, Choices(content=choice))


def rows(shown):
    return [one.row for one in shown]


def test_neighbors_are_shown_before_anything_is_generated(workshop):
    shown = workshop.neighbors("tiny", wanted(workshop, "a red boat", "a blue tree"), Choices())
    assert [one.prompt for one in shown] == ["a red boat"] * 3 + ["a blue tree"] * 3
    database = Database.open(workshop.places.database("squares"))
    for one in shown:
        name, row = one.row
        assert name == "squares" and np.array_equal(one.image, database.thumbnails([row])[0])
        assert one.caption == database.items([row])[0]["caption"]
    assert [one.score for one in shown[:3]] == sorted((one.score for one in shown[:3]), reverse=True)


def test_pinned_rows_come_first_and_dropped_ones_are_replaced_by_the_next(workshop):
    request = wanted(workshop, "a red boat")
    every = rows(workshop.neighbors("tiny", wanted(workshop, "a red boat", neighbors=12), Choices()))
    last, first = every[-1], every[0]
    found = rows(workshop.neighbors("tiny", request, chosen(Choice().pin(last).drop(first))))
    assert found == [last, every[1], every[2]]
    assert rows(workshop.neighbors("tiny", request, chosen(Choice().pin(last).pin(last)))) == every[:3]
    assert Choice().pin(first).drop(first).pinned == ()
    everything = Choice(dropped=frozenset(every[1:]))
    with pytest.raises(UserError, match="3 neighbors are wanted, and fewer are left"):
        workshop.neighbors("tiny", request, chosen(everything))


@pytest.mark.slow
def test_content_neighbors_are_pinned_and_dropped_apart_from_style_neighbors(workshop):
    assert workshop.has_roles("roles") and not workshop.has_roles("tiny")
    request = of_roles(workshop, "square 3", "square 8")
    before = contents(workshop, request, Choice())
    best, pinned = before[0], ("others", 11)
    after = contents(workshop, request, Choice().pin(pinned).drop(best))
    assert after[0::2] == [pinned] * 2 and best not in after
    style = of_role(STYLE, workshop, request, Choices())
    assert style == of_role(STYLE, workshop, request, Choices(content=Choice().drop(style[0])))
    everything = Choice(dropped=frozenset(("others", row) for row in range(12)))
    with pytest.raises(UserError, match="no content neighbor is left"):
        contents(workshop, request, everything)
    # Where one is left, all images take it.
    one_left = Choice(dropped=everything.dropped - {pinned})
    assert contents(workshop, request, one_left) == [pinned] * 4
    (found,) = {one.row[0] for one in workshop.search("roles", request.content_databases, "square 3", 5, CONTENT)}
    assert found == "others"

    folder = result_of(workshop.generate("roles", request, Choices(content=Choice().pin(pinned))))
    made = history.images_of(folder)
    assert [one.entry["content"]["ids"] for one in made] == [[11, before[0][1]]] * 2 + [[11, before[2][1]]] * 2
    assert "identical to the image in the file" in workshop.replay(made[0])


@pytest.mark.slow
def test_a_run_is_one_of_rdm_sample_and_replays(workshop):
    request = wanted(workshop, "a red boat", batch_size=1)
    shown = workshop.neighbors("tiny", request, Choices())
    choice = chosen(Choice().pin(shown[2].row).weigh(shown[0].row, 2.0))
    job = workshop.generate("tiny", request, choice)
    statuses = list(job.statuses())
    folder = statuses[-1].result
    assert folder.parent == workshop.places.runs
    assert any(status.previews for status in statuses)
    assert {round(status.done, 2) for status in statuses} >= {0.5, 1.0}
    made = history.images_of(folder)
    assert [one.entry["seed"] for one in made] == [5, 5]
    assert made[0].rows == [shown[2].row, shown[0].row, shown[1].row]
    assert made[0].run["request"]["conditions"] == ["weights(of_neighbors=[1, 2, 1])"]
    assert "identical to the image in the file" in workshop.replay(made[1])

    plain = history.images_of(result_of(workshop.generate("tiny", request, Choices())))
    assert not np.array_equal(Image.open(made[0].file), Image.open(plain[0].file))
    two = workshop.generate("tiny", wanted(workshop, "a red boat", "a blue tree"), choice)
    assert "weights of single neighbors need one prompt" in error_of(two)


@pytest.mark.slow
def test_a_canceled_job_ends_between_chunks_and_keeps_what_is_finished(workshop):
    job = workshop.generate("tiny", wanted(workshop, "a red boat", num_images=6, batch_size=2), Choices())
    before = set(workshop.places.runs.iterdir())
    for status in job.statuses():
        if status.done > 0.4:
            job.cancel()
    assert status.error.startswith("canceled")
    (folder,) = set(workshop.places.runs.iterdir()) - before
    assert 2 <= len(history.images_of(folder)) < 6
    # Other threads, such as those of pools, are whatever earlier tests of this process left.
    assert not any(thread.name == "job" for thread in threading.enumerate())


def test_a_model_has_databases_of_its_own_encoder_and_options_of_its_own_parts(workshop):
    assert {"squares", "others"} <= set(workshop.fitting("tiny")) and "neon" not in workshop.fitting("tiny")
    assert "neon" in workshop.fitting("style-scenes") and "squares" not in workshop.fitting("style-scenes")
    options = options_of_model(workshop.config("tiny"))
    assert "steps" in options and "conditions" in options
    assert not {"prior_steps", "adapter_scale", "long_prompts"} & set(options)


def test_options_read_no_file_outside_the_folder_of_the_studio(workshop, tmp_path):
    outside = tmp_path / "outside.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(outside)
    inside = workshop.places.new_upload(".png")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(inside)
    link = workshop.places.new_upload(".png")
    link.symlink_to(outside)
    for file in (outside, link, "../outside.png", "/etc/passwd"):
        calls = {"guides": f"ilvr(image='{file}')", "conditions": (f"fill(image='{file}')",)}
        for name, value in {"init": str(file), **calls}.items():
            with pytest.raises(UserError, match="is outside the studio's folder"):
                workshop.neighbors("tiny", wanted(workshop, "a red boat", **{name: value}), Choices())
    with pytest.raises(UserError, match="unknown database"):
        conditions = (f"negative(database='{tmp_path}')",)
        workshop.neighbors("tiny", wanted(workshop, "a red boat", conditions=conditions), Choices())
    for axis in (f"init={outside}", f"--guide=ilvr(image='{outside}')", f"ilvr.image={outside}"):
        swept = Wanted(("a red boat",), databases=(workshop.places.database("squares"),), sweep=(axis,))
        with pytest.raises(UserError, match="a sweep on the page goes over numbers and names"):
            workshop.neighbors("tiny", swept, Choices())
    assert workshop.neighbors("tiny", wanted(workshop, "a red boat", guides=f"ilvr(image='{inside}')"), Choices())
    with pytest.raises(UserError, match="are no numbers"):  # and no further argument of the command
        interval = f"0 1 --image={outside}"
        workshop.neighbors("tiny", wanted(workshop, "a red boat", guidance_interval=interval), Choices())
    listed = wanted(workshop, "a red boat", conditions="negative(database='others')")
    assert workshop.neighbors("tiny", listed, Choices())
    call = f"--with=negative(database={workshop.places.database('others')!r})"
    assert shlex.quote(call) in workshop.command("tiny", listed)
    with pytest.raises(UserError, match="unknown option 'stepps'"):
        workshop.neighbors("tiny", wanted(workshop, "a red boat", stepps="4"), Choices())


@pytest.mark.slow
@pytest.mark.usefixtures("golden")
def test_an_image_is_upscaled_by_the_model_that_can(workshop):
    assert workshop.upscaler("tiny") == workshop.upscaler("upscaling") == "upscaling"
    (made,) = history.images_of(
        result_of(workshop.generate("tiny", wanted(workshop, "a red boat", num_images=1), Choices()))
    )
    (larger,) = history.images_of(result_of(workshop.upscale("upscaling", made)))
    assert read_image(made.file).shape == (16, 16, 3) and read_image(larger.file).shape == (32, 32, 3)
    assert "identical to the image in the file" in workshop.replay(larger)


@pytest.mark.slow
def test_edits_and_sweeps(workshop):
    image, mask = (workshop.places.new_upload(".png") for _ in range(2))
    pixels = np.zeros((16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(image)
    pixels[:8] = 255
    Image.fromarray(pixels).save(mask)
    common = ["--database", workshop.places.database("squares"), "--steps", "2", "--prompt", "a red boat"]
    job = workshop.edit("tiny", ["inpaint", f"--image={image}", f"--mask={mask}", *common])
    assert len(history.images_of(result_of(job))) == 1
    assert "--strength" in error_of(workshop.edit("tiny", ["img2img", f"--image={image}", "--strength=a", *common]))
    swept = Wanted(
        ("a red boat",),
        databases=(workshop.places.database("squares"),),
        options={"steps": 2, "seed": 1},
        sweep=("guidance_scale=1,2", "eta=0,1"),
    )
    folder = result_of(workshop.generate("tiny", swept, Choices()))
    assert len(history.images_of(folder)) == 4 and (folder / "grid.png").is_file()


@pytest.mark.slow
def test_the_history_is_searched_by_words_newest_first(workshop):
    for prompt in ("a red boat", "a blue boat"):
        result_of(workshop.generate("tiny", wanted(workshop, prompt, num_images=1), Choices()))
    found = history.search(workshop.places, "BOAT", 50)
    assert found[0].prompt == "a blue boat" and {"boat"} <= set(found[-1].prompt.split())
    assert {one.prompt for one in history.search(workshop.places, "blue boat", 50)} == {"a blue boat"}
    assert history.search(workshop.places, "nothing of it", 50) == []
    assert len(history.search(workshop.places, "", 1)) == 1
    damaged = workshop.places.new_run()
    damaged.mkdir()
    (damaged / "run.json").write_text('{"images": 3}')
    assert history.search(workshop.places, "", 1) and history.images_of(damaged) == []


@pytest.mark.parametrize(
    ("model", "request_", "line"),
    [
        ("other", Wanted(("a",)), r"unknown model 'other'"),
        ("tiny", Wanted(()), r"nothing to generate"),
        ("tiny", Wanted(("a",), options={"sampler": "dimm"}), r"'dimm'"),
    ],
)
def test_what_is_invalid_is_one_line(workshop, model, request_, line):
    import re

    request_ = Wanted(request_.prompts, databases=(workshop.places.database("squares"),), options=request_.options)
    found = error_of(workshop.generate(model, request_, Choices()))
    assert re.search(line, found) and "\n" not in found


def test_databases_that_are_not_in_the_list_are_refused(workshop):
    for name in ("../squares", "/etc", str(workshop.places.databases / "squares"), ""):
        with pytest.raises(UserError, match="unknown database"):
            workshop.places.database(name)


def test_an_error_of_ours_says_where_to_look(workshop):
    def fail(job):
        raise RuntimeError("a secret of /home")

    assert error_of(Job(fail)) == "internal error: RuntimeError; see the terminal"


@pytest.mark.slow
def test_a_zip_has_the_images_of_one_run_with_its_record(workshop, tmp_path):
    folders = [result_of(workshop.generate("tiny", wanted(workshop, "a red boat"), Choices())) for _ in range(2)]
    images = history.images_of(folders[0])
    written = {one.file.relative_to(folders[0]).as_posix() for one in images}
    out = history.pack(images, tmp_path / "run.zip")
    assert out is not None and out == tmp_path / "run.zip"
    with zipfile.ZipFile(out) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        assert set(names) == {"run.json", "ATTRIBUTION.md", *written}
        assert archive.read(names["run.json"]) == (folders[0] / "run.json").read_bytes()
        assert archive.read(names[images[0].file.name]) == images[0].file.read_bytes()
    assert history.pack([*images, *history.images_of(folders[1])], tmp_path / "two.zip") is None
    assert history.pack([], tmp_path / "none.zip") is None and not (tmp_path / "none.zip").exists()
