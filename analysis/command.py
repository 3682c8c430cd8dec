"""The command lines of the analysis: ``python -m analysis.<name> runs/ key=value …``, all read and answered alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, NoReturn, TypeVar, get_origin, get_type_hints

from harness.errors import ConfigError, HarnessError, nearest
from harness.storage.privacy import expanded

S = TypeVar("S")


@dataclass(frozen=True)
class Command(Generic[S]):
    """A command line: its options are the fields of a dataclass, which checks them before anything heavy loads."""

    name: str
    usage: str
    settings: type[S]
    work: Callable[[S], bool]
    """Returns False where something failed that was said already; imports what is heavy."""
    interrupted: str
    """What is said after Ctrl-C of what was done."""
    rest: str = "runs"
    """The field of the words that are no ``key=value``."""

    def parse(self, arguments: Sequence[str]) -> S:
        """Return the settings; raise :class:`ConfigError` for an unknown key, one given twice, or a wrong value."""
        rest, given = read(arguments, self.settings)
        if rest:
            require(self.rest not in given, self.rest, " ".join(rest), "given twice")
            given[self.rest] = tuple(rest)
        return self.settings(**given)

    def main(self) -> NoReturn:
        """Run and exit: with 0, 1 where work failed or the user can mend what is wrong, or 130 after Ctrl-C."""
        arguments = sys.argv[1:]
        if not arguments or {"--help", "-h"} & set(arguments):
            print(self.usage, end="")
            sys.exit(0 if arguments else 1)
        try:
            fine = self.work(self.parse(arguments))
        except (HarnessError, OSError) as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print(f"{self.name}: interrupted; {self.interrupted}", file=sys.stderr)
            sys.exit(130)
        sys.exit(0 if fine else 1)


def require(fine: bool, key: str, value: object, allowed: str) -> None:
    """Raise :class:`ConfigError` unless the value is fine."""
    if not fine:
        raise ConfigError(key, "" if value is None else value, allowed)


def require_choice(key: str, value: str | None, allowed: tuple[str, ...]) -> None:
    """Raise :class:`ConfigError` with the nearest spelling unless the value is one of those allowed, or None."""
    require(value is None or value in allowed, key, value, f"no such {key}; {nearest(str(value), allowed)}")


def require_runs(runs: Sequence[str]) -> None:
    """Raise :class:`ConfigError` unless folders were given, and all are there."""
    require(bool(runs), "runs", "", "give run folders, or a folder of them; --help shows all options")
    for run in runs:
        require(expanded(run).is_dir(), "runs", run, "there is no such folder")


def read(arguments: Sequence[str], settings: type[Any]) -> tuple[list[str], dict[str, Any]]:
    """Return the arguments that are no ``key=value``, and the values of all others by the types of the fields."""
    known = {field.name for field in fields(settings)}
    given: dict[str, Any] = {}
    rest = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        _require_no_flag(key, value, known)
        if not equals or expanded(argument).is_dir():
            rest.append(argument)
            continue
        require(key in known, key, value, f"no such option; {nearest(key, known)}")
        require(bool(value), key, value, "needs a value")
        require(key not in given, key, value, f"given twice, first as {given.get(key)}")
        given[key] = typed(key, value, get_type_hints(settings)[key])
    return rest, given


def _require_no_flag(key: str, value: str, known: set[str]) -> None:
    """Raise :class:`ConfigError` for ``--key value``, as some of these commands were once written."""
    name = key.lstrip("-")
    said = f"write {name}={value or '<value>'}" if name in known else f"no such option; {nearest(name, known)}"
    require(not key.startswith("--"), key, value, said)


def typed(key: str, value: str, kind: Any) -> Any:
    """Return a value as its type; lists are separated by commas. Raises :class:`ConfigError` where it is of another."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    parts = [part.strip() for part in value.strip("[]").split(",") if part.strip()]
    given = parts if get_origin(kind) is tuple else value
    try:
        return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(given)
    except ValidationError as error:
        wrong = error.errors()
        said = (one["msg"].replace("Input should be ", "").partition(", unable to")[0] for one in wrong)
        raise ConfigError(key, wrong[0]["input"], f"must be {' or '.join(said)}") from None
