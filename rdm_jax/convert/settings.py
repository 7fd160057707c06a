"""Settings of a foreign configuration: each of the type that its program expects, or the default of its class."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdm_jax.core import text
from rdm_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Settings:
    """A section of a configuration file.

    A setting without a value (null) is one that is left out: it has its default.

    Attributes:
      what: the section, for errors.
      given: its settings, of any types; a mapping, which is checked.
      defaults: of those that may be left out.

    Raises:
      UserError: the section is no mapping, or a setting is read that is missing and has no default, or that has a value
        of another type.
    """

    what: str
    given: Any
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.given, Mapping):
            raise UserError(f"{self.what} is {self.given!r}, and a section of settings is needed; {_ADVICE}")

    def value(self, key: str) -> Any:
        """Returns a setting of any type."""
        value = self.given.get(key)
        if value is None:
            value = self.defaults.get(key)
        if value is None:
            raise UserError(f"{self.what} lacks {key}; {_ADVICE}")
        return value

    def has(self, key: str) -> bool:
        """Returns whether a setting has a value of its own."""
        return self.given.get(key) is not None

    def whole(self, key: str) -> int:
        """Returns a whole number of 1 or more."""
        value = self.value(key)
        return int(value) if _is_whole(value) else self._refuse(key, "a whole number of 1 or more")

    def number(self, key: str) -> float:
        """Returns a finite number above 0."""
        value = self.value(key)
        return float(value) if _is_number(value) else self._refuse(key, "a number above 0")

    def any_number(self, key: str) -> float:
        """Returns a finite number of any sign."""
        value = self.value(key)
        valid = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if valid else self._refuse(key, "a number")

    def flag(self, key: str) -> bool:
        """Returns true or false."""
        value = self.value(key)
        return value if isinstance(value, bool) else self._refuse(key, "true or false")

    def text(self, key: str) -> str:
        """Returns a text."""
        value = self.value(key)
        return value if isinstance(value, str) else self._refuse(key, "a text")

    def wholes(self, key: str) -> list[int]:
        """Returns a list of whole numbers of 1 or more, not an empty one."""
        value = self.value(key)
        valid = isinstance(value, list | tuple) and len(value) > 0 and all(map(_is_whole, value))
        return [int(one) for one in value] if valid else self._refuse(key, "a list of whole numbers of 1 or more")

    def numbers(self, key: str, count: int) -> list[float]:
        """Returns a list of numbers above 0, of which there are `count`."""
        value = self.value(key)
        valid = isinstance(value, list | tuple) and len(value) == count and all(map(_is_number, value))
        return [float(one) for one in value] if valid else self._refuse(key, f"a list of {count} numbers above 0")

    def texts(self, key: str, count: int) -> list[str]:
        """Returns a list of texts, of which there are `count`."""
        value = self.value(key)
        valid = isinstance(value, list | tuple) and len(value) == count and all(isinstance(one, str) for one in value)
        return list(value) if valid else self._refuse(key, f"a list of {count} texts")

    def for_all(self, key: str) -> int:
        """Returns the whole number that a setting has for all levels: the number, or a list of the same."""
        value = self.value(key)
        values = self.wholes(key) if isinstance(value, list | tuple) else [self.whole(key)]
        return values[0] if len(set(values)) == 1 else self._refuse(key, "one value for all levels")

    def section(self, key: str, defaults: Mapping[str, Any] | None = None) -> Settings:
        """Returns a section within this one."""
        return Settings(f"{self.what}: {key}", self.value(key), defaults or {})

    def require(self, fixed: Mapping[str, Any]) -> None:
        """Raises UserError for the first of some settings that has another value than the supported one."""
        for key, value in fixed.items():
            if self.given.get(key) not in (None, value):
                raise UserError(f"{self.what}: {key} is {self.given[key]!r}, and only {value!r} is supported")

    def _refuse(self, key: str, allowed: str) -> Any:
        raise UserError(f"{self.what}: {key} is {self.value(key)!r}, and {allowed} is needed; {_ADVICE}")


def read_settings(file: Path) -> dict[str, Any] | None:
    """Returns the settings of a JSON file; None if there is no such file.

    Raises:
      UserError: it cannot be read, or holds no settings.
    """
    try:
        content = text.read_json(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no settings; download it again")
    return content


def require_settings(file: Path) -> dict[str, Any]:
    """Returns the settings of a JSON file; raises UserError if there are none."""
    settings = read_settings(file)
    if settings is None:
        raise UserError(f"{file} is missing; download the folder again")
    return settings


_ADVICE = "take the file that came with the weights"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value >= 1 and value == value // 1
