"""Running ``python -m analysis.serving``: run after run, the forms of each in turns."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.views.serving.forms import BASE, MERGED, Run, Served, opened
from analysis.views.serving.measure import Load, Timed, timed, weights_bytes
from analysis.views.serving.rows import middle, ratio
from analysis.views.table.writing import show, write
from harness import progress
from harness.errors import HarnessError, NotApplicable
from harness.storage.privacy import expanded

if TYPE_CHECKING:
    from analysis.serving import Settings

Row = dict[str, Any]


def serve(settings: Settings) -> bool:
    """Measure each run, print the rows and what merging adds, and write them; False where a run failed."""
    load, fine = Load(settings.prompt_tokens, settings.new_tokens, settings.batch), True
    rows: list[Row] = []
    for folder in folders(settings.runs):
        try:
            rows += measured(opened(folder), load, settings)
        except (HarnessError, NotApplicable) as error:
            print(f"serving: {folder.name}: {error}", file=sys.stderr)
            fine = fine and isinstance(error, NotApplicable)
        gc.collect()
    if not rows:
        return False
    table, text = pd.DataFrame(rows), pd.DataFrame([shown(row) for row in rows])
    show(text)
    print("\n".join(lines(rows)))
    files = write(expanded(settings.out), "serving", table, text)
    print(f"wrote {files[0].parent}: {', '.join(file.name for file in files)}")
    return fine


def folders(runs: tuple[str, ...]) -> list[Path]:
    """Return the run folders among those named and in them, each once."""
    named = [expanded(run) for run in runs]
    inside = [[one] if (one / "record.json").is_file() else _runs_in(one) for one in named]
    return list(dict.fromkeys(folder for group in inside for folder in group))


def _runs_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/record.json"))


def measured(run: Run, load: Load, settings: Settings) -> Iterator[Row]:
    """Yield a row a form of the run; turn by turn each form answers the same requests once."""
    forms = run.forms()
    times: dict[str, list[Timed]] = {one.form: [] for one in forms}
    with run.here.settings(), progress.bar(run.folder.name, settings.turns + 1) as bar:
        for turn in range(settings.turns + 1):
            for one in forms if turn % 2 else forms[::-1]:  # neither order is always the warmer
                found = timed(one.model, load, run.here)
                if turn:  # the first fills caches and is not counted
                    times[one.form].append(found)
            bar.advance()
    for one in forms:
        yield _row(run, one, times, settings.margin)


def _row(run: Run, one: Served, times: dict[str, list[Timed]], margin: float) -> Row:
    own, base = times[one.form], times[BASE]
    row: Row = {"run": run.folder.name, "method": run.label, "form": one.form}
    for name, values in (
        ("first_token_s", [found.first for found in own]),
        ("token_s", [found.token for found in own]),
        ("tokens_per_s", [found.throughput for found in own]),
    ):
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), middle(values), strict=True))
    row |= {"weights_bytes": weights_bytes(one.model), "cache_bytes": own[0].cache, "file_bytes": one.file}
    for name, against in (
        ("first", ratio(own, base, lambda found: found.first)),
        ("token", ratio(own, base, lambda found: found.token)),
    ):
        row |= {f"{name}_ratio": against.value, f"{name}_ratio_low": against.low, f"{name}_ratio_high": against.high}
        row[f"{name}_verdict"] = against.verdict(margin) if one.form != BASE else ""
    return row | {"turns": len(own)}


def shown(row: Row) -> Row:
    """Return a row as it is printed: milliseconds, MiB, MB, ratios with their intervals."""
    ranges = {
        "first token ms": ("first_token_s", 1e3, 1),
        "per token ms": ("token_s", 1e3, 2),
        "tokens/s": ("tokens_per_s", 1.0, 1),
    }
    text: Row = {"run": row["run"], "method": row["method"], "form": row["form"]}
    for name, (key, unit, digits) in ranges.items():
        value, low, high = (f"{row[key + end] * unit:,.{digits}f}" for end in ("", "_low", "_high"))
        text[name] = f"{value} ({low}-{high})"
    text |= {"weights MiB": f"{row['weights_bytes'] / 2**20:,.1f}", "cache MiB": f"{row['cache_bytes'] / 2**20:,.2f}"}
    text |= {"file MB": f"{row['file_bytes'] / 1e6:,.1f}"}
    for name, key in (("first / base", "first_ratio"), ("token / base", "token_ratio")):
        text[f"{name} [95 %]"] = "" if row["form"] == BASE else _interval(row, key)
    return text


def _interval(row: Row, key: str) -> str:
    return f"{row[key]:.3f} [{row[f'{key}_low']:.3f}, {row[f'{key}_high']:.3f}]"


def lines(rows: list[Row]) -> list[str]:
    """Return what merging adds to the base's latency, a line a run that has a merged form."""
    return [
        f"{row['method']} merged against its base: {_interval(row, 'first_ratio')} times to the first token "
        f"({row['first_verdict']}), {_interval(row, 'token_ratio')} times a token ({row['token_verdict']})"
        for row in rows
        if row["form"] == MERGED
    ]
