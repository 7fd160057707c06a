"""Settings are read by a schema: defaults, types, unknown and missing keys, checks of one value and of several."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.core.schema import Fields, Text, one_of, put, read, within


@dataclasses.dataclass(frozen=True)
class Small:
    width: int
    dropout: float = 0.0
    mults: tuple[int, ...] = (1,)
    implementation: Literal["xla", "cudnn"] | None = None


@dataclasses.dataclass(frozen=True)
class Large:
    depth: int
    filled: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: Annotated[float, within(0.0, 1.0)] = 0.5
    names: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int
    label: str = "none"
    fast: bool = False
    decay: Annotated[str, one_of(("constant", "cosine"))] = "cosine"
    inner: Inner
    table: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    model: Annotated[Mapping[str, Any], Fields({"small": Small, "large": Large}, filled=("filled",))]

    def __post_init__(self) -> None:
        if self.inner.rate * self.steps > 100:
            raise UserError("rate times steps is above 100")


MODEL = {"kind": "small", "width": 8}


def test_defaults_are_filled_in_but_for_the_sections_of_classes() -> None:
    values = read(Outer, {"steps": 3, "model": MODEL})
    inner = {"rate": 0.5, "names": (), "pairs": ()}
    expected = {"steps": 3, "label": "none", "fast": False, "decay": "cosine", "inner": inner, "table": {}}
    assert values == expected | {"model": MODEL}


def test_values_take_the_types_of_their_keys() -> None:
    inner = {"rate": 1, "names": ["a"], "pairs": [["a", "b"]]}
    values = read(Outer, {"steps": 3, "inner": inner, "model": MODEL | {"mults": [1, 2], "dropout": 0}})
    assert values["inner"] == {"rate": 1.0, "names": ("a",), "pairs": (("a", "b"),)}
    assert type(values["inner"]["rate"]) is type(values["model"]["dropout"]) is float
    assert values["model"]["mults"] == (1, 2)


def test_the_command_line_is_yaml_of_the_key_s_type() -> None:
    given: dict[str, Any] = {"model": dict(MODEL)}
    texts = {
        "steps": "7",
        "label": "12",
        "fast": "true",
        "inner.rate": "1e-1",
        "inner.names": "one",
        "table.style.neon": "4",
        "model.dropout": "1e-2",
        "model.mults": "[1, 2]",
    }
    for key, text in texts.items():
        put(given, key, Text(text))
    values = read(Outer, given)
    assert (values["steps"], values["label"], values["fast"]) == (7, "12", True)
    assert values["inner"]["rate"] == 0.1 and values["inner"]["names"] == ("one",)
    assert values["table"] == {"style": {"neon": 4}}
    assert values["model"]["dropout"] == 0.01 and values["model"]["mults"] == (1, 2)
    put(given, "label", Text(""))
    put(given, "table", Text("{}"))
    put(given, "model", Text("{kind: large, depth: 2}"))
    values = read(Outer, given)
    assert (values["label"], values["table"], values["model"]) == ("", {}, {"kind": "large", "depth": 2})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepz": 3}, r"unknown config key 'stepz'; did you mean 'steps'"),
        ({"inner": {"rte": 0.1}}, r"unknown config key 'inner.rte'; did you mean 'inner.rate'"),
        ({"model": MODEL | {"widht": 3}}, r"unknown config key 'model.widht'; did you mean 'model.width'"),
        ({"model": MODEL | {"depth": 3}}, r"unknown config key 'model.depth'.*known: model.dropout"),
        ({"model": {"kind": "large", "depth": 1, "filled": 1}}, r"unknown config key 'model.filled'"),
        ({"model": {"kind": "smal", "width": 3}}, r"unknown model.kind 'smal'; did you mean 'small'"),
        ({"model": {"width": 3}}, r"the config lacks model.kind; .* --config.model.kind=VALUE"),
        ({"model": {"kind": "small"}}, r"the config lacks model.width"),
        ({"model": 3}, r"config key model is '3', and it is a section"),
        ({"inner": "fast"}, r"config key inner is 'fast', and it is a section"),
        ({"steps": {"more": 3}}, r"unknown config key 'steps.more'"),
        ({"steps": 3.5}, r"config key steps is '3.5', and must be a whole number"),
        ({"steps": True}, r"config key steps is 'True', and must be a whole number"),
        ({"steps": Text("many")}, r"config key steps is 'many', and must be a whole number"),
        ({"label": 3}, r"config key label is '3', and must be a text"),
        ({"fast": "yes"}, r"config key fast is 'yes', and must be true or false"),
        ({"inner": {"rate": "0.5"}}, r"config key inner.rate is '0.5', and must be a number"),
        ({"inner": {"names": "one"}}, r"config key inner.names is 'one', and must be a list, each a text"),
        ({"inner": {"pairs": [["a"]]}}, r"config key inner.pairs"),
        ({"inner": {"rate": 1.5}}, r"config key inner.rate=1.5 is out of range; give a number from 0.0 to 1.0"),
        ({"table": {"style": {"neon": "x"}}}, r"config key table.style.neon is 'x'"),
        ({"decay": "cosin"}, r"unknown decay 'cosin'; did you mean 'cosine'"),
        ({"model": MODEL | {"implementation": "tpu"}}, r"model.implementation is 'tpu', and must be 'xla' or 'cudnn'"),
        ({"steps": 300}, r"rate times steps is above 100"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(Outer, {"steps": 3, "model": MODEL} | changes)


def test_a_missing_required_key_is_named() -> None:
    with pytest.raises(UserError, match=r"the config lacks steps; set it in the file, or give --config.steps=VALUE"):
        read(Outer, {"model": MODEL})
    with pytest.raises(UserError, match="the config lacks model"):
        read(Outer, {"steps": 3})
