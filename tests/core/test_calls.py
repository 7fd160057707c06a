"""Calls written as text are parsed, never run."""

import dataclasses

import pytest

from rdm_jax.core.calls import OR_A_LIST, Call, made, parse_call
from rdm_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Thing:
    size: float = 1.0
    sizes: float | list[float] = dataclasses.field(default=1.0, metadata=OR_A_LIST)
    kind: str = "plain"


def test_a_name_with_or_without_options_is_read():
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
    ],
)
def test_nothing_else_is_and_nothing_is_run(text):
    with pytest.raises(UserError, match="is not of the form name"):
        parse_call(text, "guide")


def test_options_are_checked_by_name_and_kind():
    assert made({"thing": Thing}, Call("thing", {"size": 2}), "kind") == Thing(2.0)
    assert isinstance(made({"thing": Thing}, Call("thing", {"size": 2}), "kind").size, float)
    several = made({"thing": Thing}, Call("thing", {"sizes": [1, 2.5, 3]}), "kind").sizes
    assert several == [1.0, 2.5, 3.0] and all(isinstance(one, float) for one in several)
    for call, match in (
        (Call("thong", {}), "unknown kind 'thong'; did you mean 'thing'"),
        (Call("thing", {"sise": 2}), "unknown option of kind thing: 'sise'; did you mean 'size'"),
        (Call("thing", {"size": "2"}), "size='2' is not a number; its default is 1.0"),
        (Call("thing", {"size": True}), "size=True is not a number"),
        (Call("thing", {"size": [1.0]}), r"size=\[1.0\] is not a number"),
        (Call("thing", {"sizes": []}), r"sizes=\[\] is not a number"),
        (Call("thing", {"kind": 3}), "kind=3 is not a text in quotes; its default is 'plain'"),
    ):
        with pytest.raises(UserError, match=match):
            made({"thing": Thing}, call, "kind")
