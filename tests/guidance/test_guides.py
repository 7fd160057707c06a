"""All guides on a tiny random model: each changes the images, none recompiles, objects equal texts."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from rdm_jax.cli.main import main
from rdm_jax.core.errors import UserError
from rdm_jax.core.options import from_json, to_json
from rdm_jax.generator import Generator
from rdm_jax.guidance import GUIDES, ILVR, SDG, Inpaint, Outpaint, describe_guides
from rdm_jax.heads.diffusion.options import Options
from tests.helpers import guided, tiny

CLASSES = {"subject": ["boat", "cat"], "colour": ["blue", "green", "red"]}


@pytest.fixture(scope="module")
def generator():
    return Generator.load(guided.bundle(CLASSES))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((24, 16)).save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in range(2)]


@pytest.fixture(scope="module")
def generate(generator):
    def images_of(*guides, **options):
        settings = {"condition": "text", "steps": 4, "batch_size": 2, "num_images": 2, **options}
        return generator.sample("a red boat", guides=guides, **settings).images

    return images_of


VARIANTS = {
    "sdg": ("sdg(text='cat', weight=50)", "sdg(text='a boat', weight=80.5)"),
    "sdg content": ("sdg(content='{0}', weight=300)", "sdg(content='{1}', weight=100)"),
    "sdg structure": ("sdg(structure='{0}', weight=100)", "sdg(structure='{1}', weight=30)"),
    "sdg style": ("sdg(style='{0}', weight=100)", "sdg(style='{1}', weight=30)"),
    "classifier": ("classifier(attribute='colour', label='red', weight=5)",) * 2,
    "clip": ("clip(text='cat', weight=500, cutouts=2)", "clip(text='boat', weight=90, cutouts=2, smoothness=1)"),
    "clip of an image": ("clip(image='{0}', text='cat', weight=500, cutouts=2)",) * 2,
    "ilvr": ("ilvr(image='{0}', factor=2)", "ilvr(image='{1}', factor=2, until=0.4)"),
    "image_guidance": ("image_guidance(image='{0}', weight=0.4)", "image_guidance(image='{1}', decay='constant')"),
    "outpaint": ("outpaint(image='{1}', left=4, right=4)", "outpaint(image='{1}', left=8)"),
    "inpaint": ("inpaint(image='{0}', mask='{1}')", "inpaint(image='{1}', mask='{0}')"),
    "project": ("project(image='{0}', mask='{1}')", "project(image='{1}', mask='{0}')"),
    "weights of images": ("sdg(text='cat', weight=[0, 90])", "sdg(text='cat', weight=[50, 20, 10])"),
    "threshold": ("threshold(bound=0.2)", "threshold(bound=0.4)"),
    "dynamic": ("dynamic_threshold(bound=0.2)", "dynamic_threshold(quantile=0.9, bound=0.3)"),
}


# Programs that differ from another variant's by one term, and CLIP's, which takes longest to compile.
SLOW = (
    "outpaint",
    "classifier",
    "sdg content",
    "sdg structure",
    "sdg style",
    "clip",
    "clip of an image",
    "project",
    "dynamic",
    "image_guidance",
)


@pytest.mark.parametrize(
    "pair", [pytest.param(pair, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, pair in VARIANTS.items()]
)
def test_a_guide_changes_the_images_and_other_options_compile_nothing(generator, generate, files, pair):
    first, second = (text.format(*files) for text in pair)
    size = {"width": 32} if first.startswith("outpaint") else {}
    plain = generate(**size)
    size |= {"fit": "crop"} if first.startswith(("inpaint", "project")) else {}  # the images have other sizes
    guided_images = generate(first, **size)
    assert np.abs(plain.astype(int) - guided_images.astype(int)).max() > 3
    before = generator.compilations
    again = generate(second, **size)
    assert generator.compilations == before
    assert first == second or (again != guided_images).any()


@pytest.mark.slow
def test_objects_and_texts_are_the_same_request(generator, generate, files):
    pairs = [
        (SDG(text="cat", weight=[50.0, 20.0]), "sdg(text='cat', weight=[50, 20])"),
        (Inpaint(image=files[0], mask=files[1]), f"inpaint(image={files[0]!r}, mask={files[1]!r})"),
    ]
    objects = generate(*(made for made, _ in pairs), fit="crop")
    before = generator.compilations
    np.testing.assert_array_equal(objects, generate(*(text for _, text in pairs), fit="crop"))
    np.testing.assert_array_equal(objects, generate(pairs[0][0], pairs[1][1], fit="crop"))
    assert generator.compilations == before
    plan = generator.plan("a", condition="text", guides=[text for _, text in pairs], fit="crop")
    assert plan.options.guides == tuple(made for made, _ in pairs)
    assert from_json(Options, to_json(plan.options)) == plan.options


def test_a_margin_extends_each_side_by_its_edge_pixels():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    canvas, mask = Outpaint(left=1, down=2).canvas(image)
    assert canvas.shape == (4, 3, 3) and mask.shape == (4, 3)
    np.testing.assert_array_equal(canvas[:2, 1:], image)
    np.testing.assert_array_equal(canvas[:, 0], canvas[:, 1])
    np.testing.assert_array_equal(canvas[2], canvas[1])
    np.testing.assert_array_equal(mask == 0, np.pad(np.ones((2, 2), bool), ((0, 2), (1, 0))))
    for margins in ({}, {"left": -1, "right": 1}):
        with pytest.raises(UserError, match="extend nothing; give 0 pixels or more"):
            Outpaint(**margins).canvas(image)


@pytest.mark.slow
def test_guides_combine_with_each_other_and_every_sampler(generate, files):
    both = generate("sdg(text='cat', weight=50)", f"ilvr(image='{files[0]}', factor=4)", sampler="dpmpp_2m")
    for alone in (generate("sdg(text='cat', weight=50)", sampler="dpmpp_2m"), generate(sampler="dpmpp_2m")):
        assert (both != alone).any()
    assert generate("threshold(bound=1)", "sdg(text='cat')", sampler="heun", guidance_scale=1.0).shape == (2, 16, 16, 3)


@pytest.mark.slow
def test_an_image_is_the_same_in_any_batch(generate, files):
    # Random numbers of a step (the reference's noise, cutouts) come from the image's own key.
    guides = f"sdg(content='{files[0]}', weight=50)", "clip(text='cat', weight=100, cutouts=2)"
    together, alone = generate(*guides), generate(*guides, batch_size=1)
    assert np.abs(together.astype(int) - alone.astype(int)).max() <= 2


def test_each_image_has_its_own_weight(generate):
    mixed = generate("sdg(text='cat', weight=[0, 90])")
    np.testing.assert_array_equal(mixed[0], generate("sdg(text='cat', weight=0)")[0])
    np.testing.assert_array_equal(mixed[1], generate("sdg(text='cat', weight=90)")[1])


@pytest.mark.parametrize(
    "guide", ["sdg(text='cat')", "sdg(style='{0}')", "classifier(attribute='colour', label='red')"]
)
@pytest.mark.parametrize("size", [(32, 32), (16, 32), (8, 32)])
def test_a_size_that_the_network_of_a_guide_does_not_take_is_refused_with_the_right_one(generator, files, guide, size):
    height, width = size
    with pytest.raises(UserError, match=rf"height {height}, width {width}: guide .* for images of 16x16 only"):
        generator.plan("a", condition="text", guides=[guide.format(*files)], height=height, width=width)


LONG = "a blue tree " * 5


@pytest.mark.parametrize(
    "options",
    [
        {"guides": [f"sdg(text='{LONG}')"]},
        {"guides": [f"clip(text='{LONG}')"]},
        {"conditions": [f"negative(prompt='{LONG}')"]},
        {"conditions": [f"also(prompt='{LONG}')"]},
        {"conditions": [f"interpolate(prompt='{LONG}')"]},
    ],
    ids=lambda options: str(options)[:30],
)
def test_every_text_that_is_too_long_is_named_once(generator, caplog, options):
    with caplog.at_level(logging.WARNING, "rdm_jax"):
        generator.plan("a red boat", condition="text", **options)
    (record,) = caplog.records
    assert "is too long for the text encoder; this is cut off: 'a blue tree" in record.getMessage()


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        ("sgd(text='a')", r"unknown guide 'sgd'; did you mean 'sdg'"),
        ("sdg(txt='a')", r"unknown option of guide sdg: 'txt'; did you mean 'text'"),
        ("sdg(weight='a')", r"weight='a' is not a number"),
        ("sdg(text='a', weight=1e39)", r"weight=1e\+39 is out of range"),
        ("sdg(text='a', weight=[1, 1e999])", r"weight=\[1.0, inf\] is out of range"),
        ("sdg()", r"guide sdg has no target"),
        ("sdg(style='nowhere.png')", r"cannot read nowhere.png: No such file"),
        ("clip()", r"guide clip has no target"),
        ("clip(text='a', cutouts=0)", r"cutouts 0 is too small; use 1 or more"),
        ("clip(text='a', cutouts=2.5)", r"guide clip: cutouts=2.5 is not an integer; its default is 8"),
        ("ilvr(factor=2.5)", r"guide ilvr: factor=2.5 is not an integer"),
        ("outpaint(left=0.5)", r"guide outpaint: left=0.5 is not an integer"),
        (ILVR, r"is neither a text nor an object of these classes: SDG, "),
        ("ilvr()", r"image is missing; give an image file"),
        ("image_guidance()", r"image is missing; give an image file"),
        ("image_guidance(weight=1.5)", r"weight=1.5 is out of range; give a share from 0 to 1"),
        ("image_guidance(decay='cosine')", r"unknown decay 'cosine'"),
        ("threshold(bound=0)", r"bound=0.0 is out of range"),
        ("dynamic_threshold(quantile=1.5)", r"quantile=1.5 is out of range"),
        ("classifier(attribute='size', label='big')", r"unknown attribute 'size'"),
        ("classifier(attribute='colour', label='reed')", r"unknown colour 'reed'; did you mean 'red'"),
        ("sdg(text='a'", r"is not of the form name"),
    ],
)
def test_invalid_guides_are_refused(generate, guide, message):
    with pytest.raises(UserError, match=message):
        generate(guide)


def test_the_error_for_a_missing_network_names_the_config_that_trains_it():
    plain = Generator.load(tiny.bundle())
    with pytest.raises(UserError, match=r"needs the model's noised_clip, .* `rdm train --config noised_clip"):
        plain.plan("a", condition="text", guides=["sdg(text='a')"])


@pytest.mark.slow
def test_the_error_for_diverging_samples_names_the_guides(generate, files):
    with pytest.raises(UserError, match=r"not finite by step 4 of 4 under sdg\(style='.*', weight=3e\+38\)"):
        generate(f"sdg(style='{files[0]}', weight=3e38)")


def test_the_guides_are_listed(capsys):
    assert main(["sample", "--list-guides"]) == 0
    listing = capsys.readouterr().out
    assert describe_guides() in listing
    for name, method in GUIDES.items():
        assert f"{name}(" in listing and method.source in listing
