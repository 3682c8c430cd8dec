"""A table as people read it, and the files it is written to."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from analysis.effects.comparisons import PAIRS, Comparisons, signed
from analysis.records.configurations import UNIT
from analysis.records.intruders import changes_no_matrix
from analysis.views.table.grouped import DEFAULT
from harness.storage.files import write_bytes
from harness.storage.record import Status

WIDTH = 10_000
LEFT = ("configuration", "model", "task", "method", "note", "where", "first", "second", "test", "verdict")
TITLES = {"learning_rate": "rate", UNIT: "configuration"}


def shown(rows: pd.DataFrame, keys: list[str] | tuple[str, ...] = DEFAULT) -> pd.DataFrame:
    """Return the rows as text: what tells them apart, gains with intervals, costs; columns that are empty left out."""
    cells = [_cells(row, keys) for _, row in rows.iterrows()]
    found = pd.DataFrame(cells, dtype="str")
    same = [name for name in ("model", "task") if rows[name].nunique(dropna=False) <= 1 and name not in keys]
    empty = [name for name in found.columns if not found[name].str.strip("-").str.strip().any()]
    uncounted = ["intruders"] if rows["intruders"].isna().all() else []
    return found.drop(columns={*same, *empty, *uncounted})


def _cells(row: pd.Series[Any], keys: list[str] | tuple[str, ...]) -> dict[str, str]:
    names = [name for name in ("model", "task") if name not in keys]
    cells = {TITLES.get(name, name.removeprefix("config.")): _text(row[name]) for name in [*names, *keys]}
    done = row["status"] == Status.done.value
    status = {Status.not_applicable.value: "n/a"}.get(row["status"], row["status"])
    return cells | {
        "seeds": str(row["seeds"]) if done else "",
        "rates tried": _text(row.get("rates")),
        "trainable": "" if _missing(row["trainable"]) else f"{row['trainable']:,.0f} ({_percent(row)})",
        "score [95 %]": f"{row['metric']} {interval(row, 'score')}" if done else status,
        "base": number(row["base"]),
        "forgetting [95 %]": _forgetting(row),
        "intruders": _intruders(row),
        "train s": _rounded(row["train_seconds"]),
        "tokens/s": _rounded(row["tokens_per_second"]),
        "peak GiB": "" if _missing(row["train_peak_bytes"]) else f"{row['train_peak_bytes'] / 2**30:.2f}",
        "note": "; ".join(filter(None, (_text(row["reason"]), _text(row["resumed"]), _flattered(row)))),
    }


def _flattered(row: pd.Series[Any]) -> str:
    """Return what is to be said of a score whose own seeds chose the rate: of several rates the luckiest wins."""
    return "these seeds chose the rate: the score is flattered" if row.get("chosen_by") == "seeds" else ""


def _missing(value: object) -> bool:
    return value is None or bool(pd.isna(value))


def _text(value: Any) -> str:
    if _missing(value):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rounded(value: Any) -> str:
    return "" if _missing(value) else f"{value:,.0f}"


def _percent(row: pd.Series[Any]) -> str:
    return "?" if _missing(row["trainable_share"]) else f"{100 * row['trainable_share']:.3g} %"


def number(value: Any, sign: str = "") -> str:
    """Write a share as .825 and anything larger with one decimal."""
    if _missing(value):
        return ""
    return f"{value:{sign}.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:{sign}.3g}"


def interval(row: Mapping[Any, Any] | pd.Series[Any], name: str, sign: str = "") -> str:
    """Return a number with its interval, such as ``.825 [.780, .861]``; empty where it is missing."""
    if _missing(row[name]):
        return "undefined" if name == "score" else ""
    low, high = (number(row[f"{name}_{end}"], sign) or "?" for end in ("low", "high"))
    return f"{number(row[name], sign)} [{low}, {high}]"


def _forgetting(row: pd.Series[Any]) -> str:
    said = interval(row, "forgetting", "+")
    return f"{_text(row['forgetting_name'])} {said}" if said else ""


def _intruders(row: pd.Series[Any]) -> str:
    """Return what exceeds random changes of the same spectrum, then the count and theirs: alone it means nothing."""
    if _missing(row["intruders"]):
        return "n/a" if row["status"] == Status.done.value and changes_no_matrix(str(row["method"])) else ""
    if _missing(row["intruders_excess"]):
        return f"{row['intruders']:.3g} beside no control"
    null, low, high = (f"{row[f'intruders_null{end}']:.3g}" for end in ("", "_low", "_high"))
    return f"{row['intruders_excess']:+.3g} ({row['intruders']:.3g}, random {null} [{low}, {high}])"


def shown_comparisons(found: Comparisons) -> pd.DataFrame:
    """Return the comparisons as text: the one ahead, or equivalent, or what would decide it."""
    rows = [
        {
            "where": one.where,
            "first": one.first,
            "second": one.second,
            "difference [95 %]": f"{signed(one.difference)} [{signed(one.low)}, {signed(one.high)}]",
            "p (family)": f"{one.p_family:.2g}",
            "verdict": "; ".join(filter(None, (one.outcome, one.caveat))),
            "note": "; ".join(filter(None, ("" if one.searched else PAIRS, one.note))),
        }
        for one in found.found
    ]
    text = pd.DataFrame(rows, dtype="str")
    return text.drop(columns=[name for name in ("where", "note") if name in text and not text[name].any()])


def shown_pareto(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the configurations as text, with the share of draws in which each is Pareto-optimal."""
    text = {
        "where": rows["where"],
        "configuration": rows["configuration"],
        "seeds": rows["seeds"].map(str),
        "learning": rows["learning"].map(number),
        "forgetting": rows["forgetting"].map(lambda value: number(value, "+")),
        "Pareto-optimal": rows["optimal"].map({True: "yes", False: "no"}),
        "in draws": rows["frequency"].map(lambda share: f"{100 * share:.0f} %"),
        "note": rows["note"],
    }
    return pd.DataFrame(text).drop(columns=[name for name in ("where", "note") if not rows[name].any()])


def shown_across(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what holds over several tasks as text: mean ranks, 1 the best, and interquartile means."""
    cells = [
        {
            "configuration": row["configuration"],
            "tasks": str(row["tasks"]),
            "mean rank [95 %]": interval(row, "mean_rank"),
            "interquartile mean [95 %]": interval(row, "iqm"),
        }
        for row in rows.to_dict("records")
    ]
    return pd.DataFrame(cells, dtype="str")


def show(table: pd.DataFrame, title: str = "") -> None:
    """Print a table of text; never folded into cells, so that a line can be searched and copied."""
    found = Table(box=None, header_style="bold", pad_edge=False, title=title or None, title_justify="left")
    for name in table.columns:
        found.add_column(str(name), justify="left" if name in LEFT else "right", no_wrap=True)
    for row in table.itertuples(index=False):
        found.add_row(*map(str, row))
    Console(width=WIDTH, highlight=False, markup=False).print(found)


def write(folder: Path, name: str, rows: pd.DataFrame, text: pd.DataFrame | None = None) -> list[Path]:
    """Write rows as CSV and Parquet, and their text as Markdown and LaTeX; return the files."""
    files = {"csv": rows.to_csv(index=False).encode(), "parquet": rows.to_parquet(index=False)}
    if text is not None:
        files |= {"md": markdown(text).encode(), "tex": latex(text).encode()}
    for ending, content in files.items():
        write_bytes(folder / f"{name}.{ending}", content)
    return [folder / f"{name}.{ending}" for ending in files]


def markdown(text: pd.DataFrame) -> str:
    """Return a Markdown table; what a name holds of HTML or of the table's own marks is escaped."""
    escaped = text.map(lambda cell: html.escape(cell, quote=False).replace("|", "\\|").replace("\n", " "))
    return f"{escaped.to_markdown(index=False, disable_numparse=True)}\n"


def latex(text: pd.DataFrame) -> str:
    """Return a LaTeX table for the package booktabs; every special character is escaped."""
    from pandas.io.formats.style import Styler

    styled = Styler(text.rename(columns=_escaped)).format(escape="latex").hide(axis="index")
    return str(styled.to_latex(hrules=True, column_format="".join("l" if n in LEFT else "r" for n in text.columns)))


def _escaped(name: str) -> str:
    return name.replace("%", r"\%").replace("_", r"\_")
