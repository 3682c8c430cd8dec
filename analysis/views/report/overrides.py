"""Overrides of Hydra's command line: written so that Hydra's own grammar reads the same value back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

PLAIN = re.compile(r"[A-Za-z_/][\w./-]*", re.ASCII)
WORDS = {"true", "false", "null", "nan", "inf"}
"""What Hydra reads as something else than text, in any case."""


def written(value: Any) -> str:
    """Return a value in Hydra's override grammar (hydra.cc, "Extended Override syntax")."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{written(item)}' for key, item in value.items())}}}"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    """Return text bare where Hydra takes it as text, else in quotes.

    Inside them only a quote is escaped, and the backslashes in front of one; ``${`` would be an interpolation.
    """
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return text
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    safe = re.sub(r"(\\*)'", r"\1\1\\'", literal)
    closed = re.sub(r"(\\+)$", r"\1\1", safe)
    return f"'{closed}'"


def differences(record: dict[str, Any], composed: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the overrides that turn the composed configuration into the record's, leaf by leaf."""
    for key in [*composed, *(key for key in record if key not in composed)]:
        name = f"{prefix}{key}"
        if key not in record:
            yield f"~{name}"
        elif key not in composed:
            yield f"++{name}={written(record[key])}"
        elif isinstance(record[key], dict) and isinstance(composed[key], dict):
            yield from differences(record[key], composed[key], f"{name}.")
        elif record[key] != composed[key]:
            yield f"{name}={written(record[key])}"
