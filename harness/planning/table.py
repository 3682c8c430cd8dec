"""Plans as rows of text and of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.identity import plain
from harness.planning.cards import Card
from harness.planning.estimate import duration
from harness.planning.gpu import CONTEXT
from harness.planning.live import KINDS, PAGED
from harness.planning.plan import Plan
from harness.storage.files import write_json

GIB = 2**30


@dataclass(frozen=True)
class Row:
    """A configuration and its plan, or why it has none."""

    label: str
    """The overrides in which it differs from the others."""
    overrides: Sequence[str]
    plan: Plan | None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what ``out=`` writes of it."""
        described = {"label": self.label, "overrides": list(self.overrides), "problem": self.problem}
        return described | (plain(self.plan) if self.plan else {})


def text(rows: Sequence[Row], card: Card | None) -> str:
    """Return a line a configuration under a line of headings; sizes in GiB."""
    paged = any(row.plan and row.plan.bytes[PAGED] for row in rows)
    kinds = [kind for kind in KINDS if kind != PAGED or paged]
    fits = ["s/step", "run", "fits"] if card else []
    headings = ["configuration", "batch", "trainable", *kinds, "peak GiB", "reserved", *fits, "where"]
    lines = [headings, *(_cells(row, kinds, card) for row in rows)]
    planned = [line for line in lines if len(line) > 2]
    widths = [max(len(line[column]) for line in planned) for column in range(len(headings))]
    widths[0] = max(len(line[0]) for line in lines)
    return "\n".join([*(_aligned(line, widths) for line in lines), _footer(card)])


def _cells(row: Row, kinds: Sequence[str], card: Card | None) -> list[str]:
    plan = row.plan
    if plan is None:
        return [row.label, str(row.problem)]
    seconds = "-" if plan.seconds is None else " - ".join(f"{bound:.2g}" for bound in plan.seconds)
    run = "-" if plan.run_seconds is None else " - ".join(map(duration, plan.run_seconds))
    fits = [seconds, run, plan.fits.value] if plan.fits else []
    sizes = [f"{plan.bytes[kind] / GIB:.2f}" for kind in kinds]
    totals = [f"{size / GIB:.2f}" for size in (plan.peak_bytes, plan.reserved_bytes)]
    batch = f"{plan.batch_size} x {plan.length}"
    return [row.label, batch, f"{plan.trainable:,}", *sizes, *totals, *fits, plan.where]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    """Return a line whose numbers stand under each other; what has no plan says why in the place of numbers."""
    if len(line) == 2:
        return f"{line[0]:<{widths[0]}}  {line[1]}"
    middle = [f"{cell:>{width}}" for cell, width in zip(line[1:-1], widths[1:-1], strict=True)]
    return "  ".join([f"{line[0]:<{widths[0]}}", *middle, line[-1]])


def _footer(card: Card | None) -> str:
    reserve = f"CUDA itself takes about {CONTEXT / GIB:.2f} GiB more"
    if card is None:
        return f"estimates; {reserve}; gpu=24GiB or gpu=<card> says what fits"
    return f"estimates; {reserve}, with which it fits into {card.name} ({card.memory / GIB:.1f} GiB) or not"


def write(rows: Sequence[Row], card: Card | None, file: Path) -> None:
    """Write the plans as JSON: ``peak_bytes``, ``trainable``, sizes by kind, one object a configuration."""
    described = {"gpu": asdict(card) if card else None, "context_bytes": CONTEXT}
    write_json(file, described | {"rows": [row.as_dict() for row in rows]})


def read(file: Path) -> dict[str, Any]:
    """Read what :func:`write` wrote."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
