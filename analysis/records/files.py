"""One run folder's files as tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from analysis.errors import AnalysisError
from harness.errors import RecordError, first_line
from harness.storage.record import read_record

HEADLINE = "intruders.json"
"""A run's counts of intruder dimensions beside their controls, in its folder ``analysis``."""
ITEM_COLUMNS = ("phase", "split", "item", "prediction", "target", "score", "loss", "tokens")


def record(folder: str | Path) -> dict[str, Any]:
    """Return a run's record as it stands on disk; raise :class:`RecordError` for one that cannot be trusted."""
    return read_record(Path(folder))


def items(folder: str | Path) -> pd.DataFrame:
    """Return a run's outcomes, a row an item, phase (before, after) and split.

    Columns as in :class:`harness.tasks.base.Outcome`: item, prediction, target, score, loss (nats), tokens. What probes
    measured has splits named ``forgetting/<probe>/…``. Raises :class:`AnalysisError` where there is no such file.
    """
    found = _parquet(Path(folder) / "items.parquet")
    missing = [name for name in ITEM_COLUMNS if name not in found.columns]
    if missing:
        raise AnalysisError(f"{folder}/items.parquet: damaged, it lacks {', '.join(missing)}")
    return found


def history(folder: str | Path) -> pd.DataFrame:
    """Return a run's history, a row a logging step; empty where there is none yet.

    A last line that a power cut halved is left out: the run writes it again when it resumes.
    """
    return pd.DataFrame(_lines(Path(folder) / "history.jsonl"))


def samples(folder: str | Path) -> list[dict[str, Any]]:
    """Return a few inputs of the test split with the base's answer, the tuned answer and the reference."""
    return _lines(Path(folder) / "samples.jsonl")


def intruder_tables(folder: str | Path, *names: str) -> dict[str, pd.DataFrame]:
    """Return the tables that analyses of the weights left in the run's ``analysis/``, by name; none is an empty dict.

    Names are those of the files, described in :mod:`analysis.spectra.intruders.tables`: counts, vectors, matrices and,
    where asked for, spectra, similarity, lambda and others; only those of `names` are read where some are given. Raises
    :class:`AnalysisError` for a damaged one.
    """
    paths = sorted((Path(folder) / "analysis").glob("*.parquet"))
    return {path.stem: _parquet(path) for path in paths if not names or path.stem in names}


def intruder_headline(folder: str | Path) -> list[dict[str, Any]]:
    """Return the entries of ``analysis/intruders.json``, made by :mod:`analysis.spectra.intruders.tables`; [] is none.

    Raises :class:`AnalysisError` for a damaged file.
    """
    path = Path(folder) / "analysis" / HEADLINE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise AnalysisError(f"{path}: damaged, {error}") from None
    if not isinstance(found, list) or not all(isinstance(e, dict) and "control" in e for e in found):
        raise AnalysisError(f"{path}: damaged, it is no list of counts")
    return found


def adapter_config(folder: Path) -> dict[str, Any]:
    """Return the configuration that PEFT saved with the trained state; empty for methods without one."""
    try:
        found = json.loads((folder / "trained" / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _parquet(path: Path) -> pd.DataFrame:
    try:  # the same frame as of pandas.read_parquet in a third of its time: hundreds of small files need no threads
        with pq.ParquetFile(path) as file:
            return file.read(use_threads=False).to_pandas(use_threads=False)
    except FileNotFoundError:
        raise AnalysisError(f"{path}: there is no such file; the run has not ended, or it was removed") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        reason = first_line(error)
        raise AnalysisError(f"{path}: damaged, {reason}") from None


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a JSONL file that are whole."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror or error}") from None
    found = []
    for line in text.split("\n"):  # not splitlines: a text may hold U+2028, which JSON need not escape
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [entry for entry in found if isinstance(entry, dict)]
