"""Grids over two options: every cell is the image of a run with its values, and traced values share one program."""

from __future__ import annotations

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator, join
from rdm_jax.guidance import Threshold
from rdm_jax.sweep.axes import read_axes, split_values
from rdm_jax.sweep.plan import plan_sweep
from rdm_jax.sweep.sheet import sheet
from tests.helpers import tiny


@pytest.fixture(scope="module")
def generator():
    return Generator.load(tiny.bundle())


@pytest.fixture(scope="module")
def databases(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("databases")
    return {name: str(tiny.database(folder, name, generator.bundle, seed=i)) for i, name in enumerate(["one", "two"])}


def generated(generator, sweep):
    return [join(list(generator.generate(plan))).images for plan in sweep.plans]


def planned(generator, texts, prompts=(), database=None, **options):
    return plan_sweep(generator, read_axes(texts, generator, options), prompts, database=database, **options)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2, 3", ["1", "2", "3"]),
        ("a red boat,a dog's house", ["a red boat", "a dog's house"]),
        ('"a boat, at night",a house', ["a boat, at night", "a house"]),
        ("euler(churn=20, noise=1.0),ddim", ["euler(churn=20, noise=1.0)", "ddim"]),
        ("[0, 0.5],[0, 1]", ["[0, 0.5]", "[0, 1]"]),
    ],
)
def test_a_comma_within_quotes_or_parentheses_belongs_to_a_value(text, expected):
    assert split_values(text) == expected


@pytest.mark.parametrize("text", ["1,,2", "", "euler(churn=2,ddim", '"a boat,b'])
def test_empty_and_open_values_are_refused(text):
    with pytest.raises(UserError):
        split_values(text)


@pytest.mark.slow
def test_cells_are_the_images_of_runs_with_their_values_by_one_program(generator, databases):
    before = generator.compilations
    sweep = planned(
        generator, ["guidance-scale=2,3", "seed=5,6,7"], ["a red boat"], databases["one"], eta=1.0, num_images=2
    )
    images = generated(generator, sweep)
    assert len(sweep.shapes) == generator.compilations - before == 1
    assert [setting["seed"] for setting in sweep.settings] == ["5", "5", "6", "6", "7", "7"]
    assert sweep.names[1] == "guidance-scale-3-seed-5"
    one = generator.sample("a red boat", database=databases["one"], guidance_scale=3.0, seed=6, eta=1.0, num_images=2)
    assert np.array_equal(images[3], one.images)
    assert not np.array_equal(images[2], images[3])
    prompts = planned(
        generator,
        ["prompt=a red boat,a blue tree", f"database={databases['one']},{databases['two']}"],
        guidance_scale=3.0,
        seed=6,
        eta=1.0,
        num_images=2,
    )
    images = generated(generator, prompts)
    assert generator.compilations - before == 1
    assert np.array_equal(images[0], one.images)
    other = generator.sample(
        "a blue tree", database=databases["two"], guidance_scale=3.0, seed=6, eta=1.0, num_images=2
    )
    assert np.array_equal(images[3], other.images)
    assert [database and database.name for database in prompts.databases] == ["one", "one", "two", "two"]


def test_values_that_change_the_program_are_counted(generator, databases):
    sweep = planned(generator, ["steps=10,20,7", "guidance_scale=1,2,4"], ["a red boat"], databases["one"])
    # Chunks of 10, 10 and 7 steps; a scale of 1 needs one evaluation, the others two.
    assert len(sweep.shapes) == 4
    neighbors = planned(generator, ["neighbors=1,2"], ["a red boat"], databases["one"])
    assert len(neighbors.shapes) == 2
    condition = planned(generator, ["condition=text,neighbors"], ["a red boat"], databases["one"])
    assert [database and database.name for database in condition.databases] == [None, "one"]


def test_options_of_guides_and_pairs_are_swept(generator, databases):
    base = {"guides": [Threshold()], "prompts": ["a red boat"], "database": databases["one"]}
    sweep = planned(generator, ["threshold.bound=0.5,2", "guidance_interval=[0, 0.5],[0, 1]"], **base)
    assert [plan.options.guides[0].bound for plan in sweep.plans] == [0.5, 2.0] * 2
    assert [plan.options.guidance_interval for plan in sweep.plans] == [(0.0, 0.5)] * 2 + [(0.0, 1.0)] * 2
    added = planned(generator, ["guide=none,dynamic_threshold"], **base)
    assert [len(plan.options.guides) for plan in added.plans] == [1, 2]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["steps"], "of the form KEY=A,B,C"),
        (["steps=4,x"], "sweep steps: 'x' is not a whole number"),
        (["steps=4,0"], "sweep steps=0: steps 0"),
        (["guidance_scale=1,5000"], "sweep guidance_scale=5000: guidance scale 5000.0 is out of range; use 1"),
        (["sampler=ddim,dimm"], "sweep sampler=dimm: unknown sampler 'dimm'; did you mean 'ddim'"),
        (["stepps=4"], "sweep stepps: unknown option 'stepps'; did you mean 'steps'"),
        (["seed=1,1"], "value '1' is given twice"),
        (["seed=1", "seed=2"], "sweep seed is given twice"),
        (["seed=1", "eta=0", "steps=4"], "sweep 'steps=4' is the third one"),
        (["num_images=1,2"], "every cell has the same number of images"),
        (["sdg.weight=1,2"], "no guides or conditions named 'sdg' are given"),
        (["prompt=a,b"], "the sweep gives the prompts; leave 'a red boat' out"),
        (["database=one"], "the sweep gives the databases"),
        ([f"seed={','.join(map(str, range(40)))}", f"steps={','.join(map(str, range(40)))}"], "has 1600 cells"),
    ],
)
def test_bad_values_are_refused_before_anything_is_generated(generator, databases, texts, message):
    with pytest.raises(UserError) as raised:
        planned(generator, texts, ["a red boat"], databases["one"])
    assert message in str(raised.value)


def test_unknown_databases_and_options_of_a_guide_are_refused(generator, databases):
    with pytest.raises(UserError, match=r"sweep database=nowhere: .*nowhere"):
        planned(generator, [f"database={databases['one']},nowhere"], ["a red boat"])
    with pytest.raises(UserError, match=r"sweep threshold\.weight: unknown option of guide threshold: 'weight'"):
        planned(generator, ["threshold.weight=1"], ["a red boat"], databases["one"], guides=[Threshold()])


def test_the_sheet_has_every_image_at_its_place(generator, databases):
    sweep = planned(generator, ["seed=1,2,3", "eta=0,1"], ["a red boat"], databases["one"])
    images = [np.full((2, 16, 16, 3), 10 * cell, np.uint8) for cell in range(6)]
    whole = sheet(sweep, images)
    centers = []
    for cell in range(1, 6):
        y, x = np.nonzero((whole == 10 * cell).all(-1))
        assert len(y) >= 2 * 16 * 16
        centers.append((float(np.median(y)), float(np.median(x))))
    # The first axis runs along a row, the second one down: cells 1 and 4 are in one column, 4 and 5 in one row.
    assert abs(centers[0][1] - centers[3][1]) < 2
    assert abs(centers[3][0] - centers[4][0]) < 2
    assert centers[3][0] - centers[0][0] > 16
    assert centers[4][1] - centers[3][1] > 16


def test_cells_of_several_sizes_share_a_sheet(generator, databases):
    sweep = planned(generator, ["seed=1,2"], ["a red boat"], databases["one"])
    whole = sheet(sweep, [np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 32, 16, 3), np.uint8)])
    zoom = 128 // 16
    black = (whole == 0).all(-1).sum()
    assert black == (16 * 16 + 32 * 16) * zoom**2
