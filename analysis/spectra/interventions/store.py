"""What is kept beside a run's record: the answers at each λ, so that nothing is computed twice, and the tables of all.

analysis/interventions/<key>/   one for each setting that changes an answer
    settings.json               that setting
    <curve>-<λ>.parquet         every item's outcome, under the names that ``items.parquet`` has
analysis/lambda.parquet         a row for each setting, curve, λ and metric: the curves; columns in `CURVES`
analysis/interventions/<key>/verdicts.json  whether the top intruder carries the forgetting, by each probe
analysis/interventions/<key>/equal_score.json  what mitigations leave forgotten where each has cost as much score
analysis/lambda_vectors.parquet a row for each scaled vector
analysis/lambda_items.parquet   a row for each setting, curve, λ, split or probe's series, and item
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analysis.spectra.interventions.results import Row
from analysis.spectra.intruders.tables import parquet
from harness.errors import first_line
from harness.forgetting.base import Items
from harness.identity import digest
from harness.storage.files import write_bytes, write_json
from harness.storage.outcomes import read_series

log = logging.getLogger(__name__)

CURVES: dict[str, str] = (
    dict.fromkeys(("run", "key", "mode", "curve"), "string")
    | {"lambda": "float64", "removed": "float64", "matrices": "int64", "k": "int64", "eps": "float64"}
    | dict.fromkeys(("reference", "modules", "split", "of", "metric"), "string")
    | {"headline": "bool_", "value": "float64", "low": "float64", "high": "float64", "items": "int64"}
    | {"higher_is_better": "bool_"}
    | dict.fromkeys(("base", "at_one", "delta", "delta_low", "delta_high"), "float64")
    | dict.fromkeys(("percent", "percent_low", "percent_high"), "float64")
    | {"percent_of": "string", "undefined": "string"}
)
"""Column → Arrow type of ``lambda.parquet``.

``lambda`` of ``stopped`` is the share of the training steps, of ``lower_rate`` that of the learning rate; ``removed``
is the Frobenius norm over all matrices of what λ takes out, below 0 where it adds, empty for these two; ``of`` is
``task`` or a probe's label; ``base`` the untouched model's value, ``at_one`` the tuned model's, ``delta`` the change
against that one over the same items; ``percent`` of the score or of what was forgotten (``percent_of``), or why there
is none (``undefined``).
"""
VECTORS: dict[str, str] = dict.fromkeys(("run", "key", "mode", "curve", "matrix", "kind"), "string") | {
    "layer": "int64",
    "index": "int64",
    "sigma": "float64",
    "cos": "float64",
}
ITEMS: dict[str, str] = (
    dict.fromkeys(("run", "key", "mode", "curve"), "string")
    | {"lambda": "float64", "split": "string", "item": "string", "prediction": "string", "target": "string"}
    | {"score": "float64", "loss": "float64", "tokens": "int64"}
)


@dataclass(frozen=True)
class Store:
    """The answers of one setting of one run."""

    analysis: Path
    """The run's folder for what is computed of it."""
    setting: dict[str, Any]

    @property
    def key(self) -> str:
        """Return the setting's hash."""
        return digest(self.setting, 10)

    @property
    def folder(self) -> Path:
        """Return where the answers are."""
        return self.analysis / "interventions" / self.key

    def _path(self, curve: str, factor: float) -> Path:
        return self.folder / f"{curve}-{factor:g}.parquet"

    def read(self, curve: str, factor: float) -> Items | None:
        """Return the answers at one λ, None where there are none yet or their file is damaged."""
        path = self._path(curve, factor)
        try:
            return read_series(path) if path.exists() else None
        except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's errors are ValueErrors
            log.warning("%s is damaged (%s); computing it again", path, first_line(error))
            return None

    def write(self, curve: str, factor: float, found: Items) -> None:
        """Keep the answers at one λ."""
        write_json(self.folder / "settings.json", self.setting)
        rows = [{"split": name, **asdict(outcome)} for name, outcomes in found.items() for outcome in outcomes]
        write_bytes(self._path(curve, factor), parquet(rows, {name: ITEMS[name] for name in ITEMS if name in rows[0]}))

    def write_verdicts(self, verdicts: list[Row]) -> None:
        """Keep what the curves of this setting show."""
        write_json(self.folder / "verdicts.json", verdicts)

    def write_equal_scores(self, left: list[Row]) -> None:
        """Keep what mitigations leave forgotten at equal task score."""
        write_json(self.folder / "equal_score.json", left)

    def write_tables(self, curves: list[Row], vectors: list[Row], items: list[Row]) -> None:
        """Put this setting's rows into the run's tables, in the place of those from before."""
        for name, rows, columns in (
            ("lambda", curves, CURVES),
            ("lambda_vectors", vectors, VECTORS),
            ("lambda_items", items, ITEMS),
        ):
            path = self.analysis / f"{name}.parquet"
            write_bytes(path, parquet([*self._others(path), *rows], columns))

    def _others(self, path: Path) -> list[Row]:
        """Return a table's rows of other settings."""
        import pyarrow.parquet as pq

        try:
            return [row for row in pq.read_table(path).to_pylist() if row["key"] != self.key] if path.exists() else []
        except (OSError, ValueError, KeyError) as error:
            log.warning("%s is damaged (%s); writing it anew", path, first_line(error))
            return []
