"""How to cite what the runs stand on: this software at its commit, the models and the data, as their presets say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Source = tuple[str, str, str, str, str]
"""Kind, name, citation, licence, where it is."""


@dataclass(frozen=True)
class Citation:
    """One source that the runs stand on."""

    kind: str
    name: str
    text: str
    licence: str
    source: str
    runs: int


def citations(records: list[dict[str, Any] | None]) -> list[Citation]:
    """Return every source once, with the number of runs that used it; what a record does not say is left empty."""
    found: dict[Source, int] = {}
    for record in filter(None, records):
        for entry in dict.fromkeys(_sources(record)):
            found[entry] = found.get(entry, 0) + 1
    return [Citation(*entry, count) for entry, count in sorted(found.items())]


def _sources(record: dict[str, Any]) -> list[Source]:
    config = record["config"]
    model = config.get("model", {})
    tasks = config.get("sequence_tasks") or {"": config.get("task", {})}
    texts = (config.get("forgetting") or {}).get("texts") or {}
    found = [_entry("software", f"PEFT Harness {record.get('versions', {}).get('peft-harness', '')}", _commit(record))]
    found.append(_entry("model", model.get("name") or model.get("id"), model))
    found += [_entry("data", task.get("dataset"), task) for task in tasks.values()]
    return found + [_entry("text", name, text) for name, text in texts.items()]


def _commit(record: dict[str, Any]) -> dict[str, Any]:
    commit = record.get("commit")
    changed = ", with changes that are not committed" if record.get("dirty") else ""
    return {"citation": f"commit {commit}{changed}" if commit else "no commit is recorded", "licence": "Apache-2.0"}


def _entry(kind: str, name: Any, source: dict[str, Any]) -> Source:
    text, licence, where = (source.get(key) for key in ("citation", "licence", "source"))
    return kind, _text(name), _text(text), _text(licence), _text(where)


def _text(value: Any) -> str:
    return "" if value is None else str(value)
