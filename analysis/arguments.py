"""Command lines of ``key=value`` arguments: read into a dataclass's fields, checked before anything heavy loads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from harness.errors import ConfigError, nearest
from harness.storage.privacy import expanded


def require(fine: bool, key: str, value: object, allowed: str) -> None:
    """Raise :class:`ConfigError` unless the value is fine."""
    if not fine:
        raise ConfigError(key, "" if value is None else value, allowed)


def require_choice(key: str, value: str | None, allowed: tuple[str, ...]) -> None:
    """Raise :class:`ConfigError` with the nearest spelling unless the value is one of those allowed, or None."""
    require(value is None or value in allowed, key, value, f"no such {key}; {nearest(str(value), allowed)}")


def read(arguments: list[str], settings: type[Any], rest_is: str = "") -> tuple[list[str], dict[str, Any]]:
    """Return the arguments that are no ``key=value``, which the field `rest_is` takes, and the values of all others.

    Raises :class:`ConfigError` for an unknown key, one given twice, and a value of the wrong type.
    """
    known = {field.name: field for field in fields(settings) if field.name != rest_is}
    given: dict[str, Any] = {}
    rest = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or expanded(argument).is_dir():
            rest.append(argument)
            continue
        require(key in known, key, value, f"no such option; {nearest(key, known)}")
        require(bool(value), key, value, "needs a value")
        require(key not in given, key, value, f"given twice, first as {given.get(key)}")
        given[key] = READERS.get(str(known[key].type), _text)(key, value)
    return rest, given


def _text(key: str, value: str) -> str:
    return value


def _list(value: str) -> list[str]:
    return [part.strip() for part in value.strip("[]").split(",") if part.strip()]


def _names(key: str, value: str) -> tuple[str, ...]:
    return tuple(_list(value))


def _boolean(key: str, value: str) -> bool:
    require(value.lower() in ("true", "false"), key, value, "must be true or false")
    return value.lower() == "true"


def _whole(key: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ConfigError(key, value, "must be a whole number") from None


def _whole_or_all(key: str, value: str) -> int | None:
    try:
        return None if value == "whole" else int(value)
    except ValueError:
        raise ConfigError(key, value, "must be a whole number, or the word whole") from None


def _number(key: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    require(math.isfinite(number), key, value, "must be a number")
    return number


def _numbers(key: str, value: str) -> tuple[float, ...]:
    return tuple(_number(key, part) for part in _list(value))


READERS: dict[str, Callable[[str, str], Any]] = {
    "int": _whole,
    "int | None": _whole_or_all,
    "float": _number,
    "bool": _boolean,
    "tuple[str, ...]": _names,
    "tuple[float, ...]": _numbers,
}
"""How a value is read, by the type of its field."""
