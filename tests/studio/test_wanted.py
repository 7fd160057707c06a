"""What the page requests is what the command line takes."""

from __future__ import annotations

import shlex

import pytest

from rdm_jax.cli import sample
from rdm_jax.cli.main import Parser
from rdm_jax.core.errors import UserError
from rdm_jax.core.options import declarations
from rdm_jax.heads import all_options
from rdm_jax.request import Request
from rdm_jax.studio.choice import Choices
from rdm_jax.studio.wanted import OWN_CONTROLS, Wanted, blamed, default_of, lines, option_declarations, weighted

WANTED = Wanted(
    ("a red boat", "--odd prompt", "two\twords"),
    negative="a sail",
    databases=("neon:0.5", "ink:2"),
    options={"steps": "8", "guidance_interval": "0.1 0.9", "guides": "sdg(text='neon')\nclip(text='x')", "eta": ""},
    rendition={"svg": True, "transparent": False, "size": "64"},
)


def test_the_options_are_those_of_the_command_line():
    args = WANTED.parse()
    assert args.prompts == ["a red boat", "--odd prompt", "two\twords"]
    assert (args.negative_prompt, args.database, args.steps) == ("a sail", ["neon:0.5", "ink:2"], 8)
    assert args.guidance_interval == [0.1, 0.9] and args.guides == ["sdg(text='neon')", "clip(text='x')"]
    assert (args.svg, args.transparent, args.size, args.eta) == (True, False, "64", None)


def test_the_command_line_that_is_shown_does_the_same():
    parser = Parser(prog="rdm sample")
    sample.add_arguments(parser)
    program, verb, *arguments = shlex.split(WANTED.command("some model"))
    args = vars(parser.parse(arguments))
    assert (program, verb, args.pop("model")) == ("rdm", "sample", "some model")
    assert args == {name: value for name, value in vars(WANTED.parse()).items() if name != "model"}


@pytest.mark.parametrize("head", all_options())
def test_every_option_of_a_head_has_a_control_or_names_a_file(head):
    every = {**declarations(Request), **declarations(all_options()[head])}
    for name, declaration in every.items():
        assert (name in option_declarations(head)) != (name in OWN_CONTROLS or declaration.file)
        default_of(head, name)


def test_values_of_another_type_and_too_many_prompts_are_refused():
    with pytest.raises(UserError, match="steps"):
        Wanted(("a",), options={"steps": "many"}).parse()
    with pytest.raises(UserError, match=r"1001 prompts, and a request takes 1000"):
        Wanted(("a",) * 1001).arguments()


def test_weights():
    assert weighted(["a", "b"], {}) == ("a", "b")
    assert weighted(["a", "b"], {"a": 0.5}) == ("a:0.5", "b:1")
    assert weighted(["a", "b"], {"a": 0.0, "b": 3.0}) == ("b:3",)
    with pytest.raises(UserError, match="all databases have the weight 0"):
        weighted(["a"], {"a": 0.0})
    assert lines(" a \n\n b\n") == ("a", "b") and lines(None) == ()


@pytest.mark.parametrize(
    ("options", "control"),
    [
        ({"sampler": "dimm"}, "sampler"),
        ({"steps": "a"}, "steps"),
        ({"guidance_scale": "nan"}, "guidance_scale"),
        ({"seed": "abc"}, "seed"),
        ({"num_images": "many"}, "num_images"),
        ({"neighbors": "z"}, "neighbors"),
    ],
)
def test_an_error_names_its_control_and_not_the_command_line(workshop, options, control):
    request = Wanted(("a red boat",), databases=(workshop.places.database("squares"),), options=options)
    with pytest.raises(UserError) as error:
        workshop.neighbors("tiny", request, Choices())
    assert blamed(str(error.value)) == control
    assert "argument" not in str(error.value) and "--help" not in str(error.value)


def test_errors_of_no_control_blame_none():
    assert blamed("cannot read boat.png: No such file or directory") == ""
    assert blamed("unknown database 'ink' (known: prompts, seed)") == "databases"
    assert blamed("content_neighbors -1 is out of range; give 0 to 4 neighbors") == "content_neighbors"
