"""Calls: text is parsed and never evaluated, values keep their declared types, and every object has its text."""

import dataclasses
import math
import types
import typing

import numpy as np
import pytest

from rdm_jax.conditioning import CONDITIONERS as CONDITIONERS
from rdm_jax.core.calls import Call, build, format_call, parse, parse_call, set_types
from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.interpolants import PATHS
from rdm_jax.diffusion.samplers import SAMPLERS
from rdm_jax.diffusion.samplers.ddpm import VARIANCES
from rdm_jax.diffusion.samplers.interpolant_sde import DIFFUSIONS, LAST_STEPS, SDE_METHODS
from rdm_jax.guidance import GUIDES, SDG, CLIPGuidance, GuidanceMethod


@dataclasses.dataclass(frozen=True)
class Thing:
    size: float = 1.0
    sizes: float | list[float] = 1.0
    count: int = 3
    kind: str = "plain"
    flag: bool = False


@dataclasses.dataclass(frozen=True)
class Converted(Thing):
    def __post_init__(self):
        set_types(self)


TABLE = {"thing": Thing}


def test_a_name_with_or_without_options_is_parsed():
    assert parse_call("ddim", "sampler") == Call("ddim", {})
    assert parse_call(" ddim() ", "sampler") == Call("ddim", {})
    assert parse_call("sdg(text='a (red) boat, \"x\"=1', weight=-1.5e2, ids=[1, 2])", "guide") == Call(
        "sdg", {"text": 'a (red) boat, "x"=1', "weight": -150.0, "ids": [1, 2]}
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b",
        "f(1)",
        "f(**{'a': 1})",
        "f(a=b)",
        "f(a=open('x'))",
        "f(a=1)(b=2)",
        "f.g(a=1)",
        "f(a=1",
        "1",
        "f(a=1+g())",
        "f(a='\0')",
    ],
)
def test_nothing_else_is_parsed_and_nothing_is_evaluated(text):
    with pytest.raises(UserError, match="is not of the form name"):
        parse_call(text, "guide")


def test_values_get_the_declared_types():
    for value in (2, 2.0, np.float32(2), np.int64(2)):
        size = build(TABLE, Call("thing", {"size": value}), "kind").size
        assert size == 2.0 and type(size) is float
    count = build(TABLE, Call("thing", {"count": np.int64(4)}), "kind").count
    assert count == 4 and type(count) is int
    several = build(TABLE, Call("thing", {"sizes": [1, 2.5, 3]}), "kind").sizes
    assert several == [1.0, 2.5, 3.0] and all(type(one) is float for one in several)
    assert build(TABLE, Call("thing", {"flag": True}), "kind") == Thing(flag=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("thong()", "unknown kind 'thong'; did you mean 'thing'"),
        ("thing(sise=2)", "unknown option of kind thing: 'sise'; did you mean 'size'"),
        ("thing(size='2')", "size='2' is not a number; its default is 1.0"),
        ("thing(size=True)", "size=True is not a number"),
        ("thing(size=[1.0])", r"size=\[1.0\] is not a number;"),
        ("thing(size=1" + 400 * "0" + ")", "is not a number;"),
        ("thing(sizes=[])", r"sizes=\[\] is not a number or a list of numbers; its default is 1.0"),
        ("thing(sizes=[1, 'a'])", r"sizes=\[1, 'a'\] is not a number or a list of numbers"),
        ("thing(kind=3)", "kind=3 is not a text in quotes; its default is 'plain'"),
        ("thing(count=2.5)", "kind thing: count=2.5 is not an integer; its default is 3"),
        ("thing(count=True)", "count=True is not an integer"),
        ("thing(flag=1)", "flag=1 is not True or False"),
    ],
)
def test_unknown_names_and_values_of_other_types_are_refused(call, message):
    with pytest.raises(UserError, match=message):
        parse(TABLE, call, "kind")


def test_objects_pass_through_and_those_of_other_classes_are_refused():
    thing = Thing(size=2)
    assert parse(TABLE, thing, "kind") is thing
    for value in (SDG(text="a"), SDG, 3, None):
        with pytest.raises(UserError, match="is neither a text nor an object of these classes: Thing"):
            parse(TABLE, value, "kind")


def test_objects_made_in_python_get_the_declared_types_too():
    thing = Converted(size=2, sizes=(1, 2), count=np.int64(5))
    assert thing == Converted(2.0, [1.0, 2.0], 5) and type(thing.size) is type(thing.sizes[0]) is float
    for options, message in (
        ({"count": 2.5}, "Converted: count=2.5 is not an integer; its default is 3"),
        ({"count": "a"}, "Converted: count='a' is not an integer"),
        ({"size": math.nan}, "Converted: size=nan is not a number"),
        ({"sizes": [1.0, math.nan]}, r"Converted: sizes=\[1.0, nan\] is not a number or a list of numbers"),
        ({"kind": None}, "Converted: kind=None is not a text in quotes"),
    ):
        with pytest.raises(UserError, match=message):
            Converted(**options)
    assert all(cls.__post_init__ is GuidanceMethod.__post_init__ for cls in GUIDES.values())


TABLES = {"guide": GUIDES, "condition": CONDITIONERS, "sampler": SAMPLERS}
TEXTS = ["", "a boat", 'it\'s "red"', "two\nlines", "\\ \0 \t", "'", '"', "bâteau 船 🚢", "\ud800", "f(a=1)", " x "]
NUMBERS = [0.0, 1.0, -1.0, 0.1, 1e-320, -2.5e300, 1e22, math.pi, math.inf, -math.inf, 300.0]

CHOICES = {
    "variance": VARIANCES,
    "path": list(PATHS),
    "method": SDE_METHODS,
    "diffusion": list(DIFFUSIONS),
    "last": LAST_STEPS,
}


def value_of(hint, name, rng):
    """A random value of a type; options of samplers have ranges of their own."""
    if isinstance(hint, types.UnionType):
        hint = typing.get_args(hint)[rng.integers(len(typing.get_args(hint)))]
    if typing.get_origin(hint) is list:
        return [value_of(typing.get_args(hint)[0], name, rng) for _ in range(rng.integers(1, 4))]
    if hint is int:
        return int(rng.choice([0, 1, 8, -3])) * 2 ** int(rng.integers(70))
    if name in ("eta", "churn", "churn_noise"):
        return float(rng.random())
    if name in ("margin", "last_size"):
        return float(rng.uniform(0.01, 0.49))
    if hint is float:
        return float(rng.choice(NUMBERS)) if rng.random() < 0.5 else float(rng.standard_normal())
    return str(rng.choice(CHOICES.get(name, TEXTS)))


@pytest.mark.parametrize(("what", "name"), [(what, name) for what, table in TABLES.items() for name in table])
def test_every_object_has_a_text_that_parses_to_an_equal_object(what, name):
    table, rng = TABLES[what], np.random.default_rng(0)
    cls = table[name]
    assert format_call(table, cls()) == name
    hints = {field.name: typing.get_type_hints(cls)[field.name] for field in dataclasses.fields(cls)}
    texts = set()
    for _ in range(100):
        options = {option: value_of(hint, option, rng) for option, hint in hints.items() if rng.random() < 0.7}
        made = cls(**options)
        text = format_call(table, made)
        assert parse(table, text, what) == made
        changed = {field.name for field in dataclasses.fields(cls) if getattr(made, field.name) != field.default}
        assert set(parse_call(text, what).options) == changed
        texts.add(text)
    assert len(texts) > 5


def test_a_text_is_short_and_numbers_are_exact():
    assert format_call(GUIDES, SDG(text="neon", weight=300.0)) == "sdg(text='neon', weight=300)"
    assert format_call(GUIDES, SDG(weight=[0.1, 2.0, math.inf])) == "sdg(weight=[0.1, 2, 1e999])"
    assert format_call(GUIDES, CLIPGuidance(cutouts=4)) == "clip(cutouts=4)"
    assert format_call(SAMPLERS, SAMPLERS["ddim"](eta=np.float64(0.5))) == "ddim(eta=0.5)"
