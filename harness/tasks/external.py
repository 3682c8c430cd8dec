"""Metrics of the `evaluate` library beside a task's own, by hub id or by a local folder.

``evaluate:<id>`` is a script on the hub that runs here once it is loaded: who writes it asks for that. Its commit
stands in the record. ``path:<folder>`` is the same kind of script on this machine, and its content counts in the
run's id.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, first_line
from harness.storage.privacy import expanded
from harness.tasks.scores import Outcome, Score, bootstrap

KEY = "task.metrics"
SHIPPED = Path(__file__).resolve().parent.parent / "metrics"
"""``path:word_f1`` is one of these where there is no such folder here."""
FORM = re.compile(r"(evaluate|path):([^:@]+?)(?:@([\w.-]+))?(?::(?!lower$)(\w+))?(:lower)?")
ALLOWED = (
    "write evaluate:<hub id>[@<commit>] or path:<folder>, then [:<value>] of several and [:lower] if less is better"
)
TOLERANCE = 1e-6
"""Relative; a metric whose value is the mean of its items' values has an interval."""


@dataclass(frozen=True)
class External:
    """A metric as ``task.metrics`` names it."""

    spec: str
    local: bool
    place: str
    """A folder, or the id of a hub metric: ``bleu``, or ``owner/name`` of one that others wrote."""
    revision: str | None
    value: str | None
    """Which of the values that it computes."""
    higher_is_better: bool

    @property
    def folder(self) -> Path:
        """Return the folder of a local metric: on this machine, or one of those that are shipped."""
        here = expanded(self.place).absolute()
        return here if here.exists() or "/" in self.place else SHIPPED / self.place

    @property
    def module(self) -> str:
        """Return the script's name without its ending; its folder has the same."""
        return self.folder.name if self.local else self.place.rsplit("/", 1)[-1]

    @property
    def name(self) -> str:
        """Return what records and tables call it: ``bleu``, or ``rouge.rougeL`` of a value that was chosen."""
        return self.module if self.value is None else f"{self.module}.{self.value}"

    @property
    def script(self) -> Path:
        """Return the local script."""
        return self.folder / f"{self.module}.py"

    def files(self) -> dict[str, Path]:
        """Return a local metric's Python files by name, the script first; none of a hub metric."""
        if not self.local:
            return {}
        beside = sorted(self.folder.glob("*.py"))
        return {path.name: path for path in dict.fromkeys([self.script, *beside])}


@dataclass(frozen=True)
class Measured:
    """What a metric made of some outcomes."""

    value: float
    items: tuple[float, ...] | None
    """Each item's value, where `value` is their mean."""


def parsed(spec: str) -> External:
    """Return what an entry of ``task.metrics`` names; raise :class:`ConfigError` for one that names nothing."""
    found = FORM.fullmatch(spec)
    if found is None:
        raise ConfigError(KEY, spec, ALLOWED)
    kind, place, revision, value, lower = found.groups()
    if kind == "path" and revision:
        raise ConfigError(KEY, spec, "a local folder has no revision; its content counts")
    return External(spec, kind == "path", place, revision, value, lower is None)


def annotated(specs: Sequence[str], outcomes: list[Outcome]) -> list[Outcome]:
    """Return the outcomes with what each metric gives them, where it scores items."""
    for external in map(parsed, specs):
        found = measure(external, outcomes)
        if found.items is not None:
            pairs = zip(outcomes, found.items, strict=True)
            outcomes = [replace(one, measured=one.measured | {external.name: value}) for one, value in pairs]
    return outcomes


def scores(specs: Sequence[str], outcomes: list[Outcome]) -> dict[str, Score]:
    """Return each metric by name: with a bootstrap interval where it scores items, else with none (NaN).

    Of outcomes that are :func:`annotated` nothing is computed a second time, and no script is loaded.
    """
    return {external.name: _score(external, outcomes) for external in map(parsed, specs)}


def _score(external: External, outcomes: list[Outcome]) -> Score:
    better = external.higher_is_better
    if all(external.name in outcome.measured for outcome in outcomes):
        found = Measured(math.nan, tuple(outcome.measured[external.name] for outcome in outcomes))
    else:
        found = measure(external, outcomes)
    if found.items is None:
        return Score(found.value, math.nan, math.nan, len(outcomes), better)
    return bootstrap(found.items, lambda values: float(values.mean()), higher_is_better=better)


def measure(external: External, outcomes: Sequence[Outcome]) -> Measured:
    """Return what a metric makes of outcomes, and of each of them where its value is their mean.

    Raises :class:`ConfigError` where it cannot read or compute them.
    """
    module = loaded(external)
    columns = _columns(external, module, outcomes)
    try:
        whole = _chosen(external, module.compute(**columns))
    except ConfigError:
        raise
    except Exception as error:  # a script may raise anything
        raise ConfigError(KEY, external.spec, f"cannot be computed: {_message(error)}") from None
    items = whole if isinstance(whole, tuple) else _item_by_item(external, module, columns)
    value = sum(items) / len(items) if items and isinstance(whole, tuple) else whole
    assert not isinstance(value, tuple)
    if items is None or len(items) != len(outcomes):
        return Measured(value, None)
    same = math.isclose(sum(items) / len(items), value, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return Measured(value, items if same else None)


def _item_by_item(external: External, module: Any, columns: dict[str, list[Any]]) -> tuple[float, ...] | None:
    """Return the metric of each item alone, None where one alone has none.

    By the script's own ``_compute``: the library's ``compute`` writes an Arrow table each time, 5 to 20 ms an item.
    """
    try:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        found = [_chosen(external, module._compute(**{name: [cell] for name, cell in row.items()})) for row in rows]
    except Exception:  # such as a correlation, which one item does not have
        return None
    flat = [one[0] if isinstance(one, tuple) else one for one in found]
    return tuple(flat) if all(map(math.isfinite, flat)) else None


def _chosen(external: External, result: Any) -> float | tuple[float, ...]:
    """Return the value that the metric is named after, that was asked for, or the only one."""
    numbers = {name: found for name, value in dict(result or {}).items() if (found := _number(value)) is not None}
    wanted = external.value or (external.module if external.module in numbers else None)
    if wanted is None and len(numbers) == 1:
        (wanted,) = numbers
    if wanted not in numbers:
        several = f"it computes {', '.join(numbers) or 'no number'}; write {KEY}=[{external.spec}:<value>]"
        raise ConfigError(KEY, external.spec, several)
    return numbers[wanted]


def _number(value: Any) -> float | tuple[float, ...] | None:
    try:
        return tuple(map(float, value)) if isinstance(value, list | tuple) else float(value)
    except (TypeError, ValueError):
        return None


def _columns(external: External, module: Any, outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """Return predictions and references as the first of the metric's formats that they can be written in."""
    formats = module.features if isinstance(module.features, list) else [module.features]
    reasons = []
    for features in formats:
        if set(features) != {"predictions", "references"}:
            reasons.append(f"it reads {', '.join(features)}, a run has predictions and references")
            continue
        try:
            return _written(dict(features), outcomes)
        except ValueError as error:
            reasons.append(first_line(error))
    raise ConfigError(KEY, external.spec, reasons[0])


def _written(features: dict[str, Any], outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """Write texts as the features ask: text, a number, a label's place in alphabetical order, or a list of one."""
    texts = {"predictions": [o.prediction for o in outcomes], "references": [o.target for o in outcomes]}
    places = {name: place for place, name in enumerate(sorted({*texts["predictions"], *texts["references"]}))}
    return {name: [_cell(text, features[name], places) for text in texts[name]] for name in features}


def _cell(text: str, feature: Any, places: dict[str, int]) -> Any:
    dtype = getattr(feature, "dtype", "")
    if dtype in ("string", "large_string"):
        return text
    if dtype.startswith("float"):
        return float(text)
    if dtype.startswith(("int", "uint", "bool")):
        return int(text) if all(re.fullmatch(r"-?\d+", name) for name in places) else places[text]
    if hasattr(feature, "feature"):
        return [_cell(text, feature.feature, places)]
    raise ValueError(f"it reads {feature}, which answers are not")


def loaded(external: External) -> Any:
    """Return the metric's module, loaded once a process; raise :class:`ConfigError` in one line where it cannot be."""
    return _loaded(external.local, str(folder_of(external)), external.module, external.spec)


@cache
def _loaded(local: bool, folder: str, module: str, spec: str) -> Any:
    import evaluate

    script = Path(folder) / f"{module}.py"
    if not script.is_file():
        raise ConfigError(
            KEY, spec, f"there is no {script.name} in this folder; a metric's script has its folder's name"
        )
    try:
        return evaluate.load(str(script), keep_in_memory=True)
    except Exception as error:  # the script's imports may raise anything
        raise ConfigError(KEY, spec, f"cannot be loaded: {_message(error)}") from None


def folder_of(external: External) -> Path:
    """Return the folder with the metric's script; of a hub metric the snapshot that has its commit for a name."""
    return external.folder if external.local else _snapshot(external)


@cache
def _snapshot(external: External) -> Path:
    """Fetch a hub metric's files, or take them from the hub's cache where the hub is not reached.

    Raises :class:`ConfigError` in one line where neither has it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    repository = external.place if "/" in external.place else f"evaluate-metric/{external.place}"
    patterns = ["*.py", "*.txt", "*.json"]
    try:
        found = snapshot_download(repository, repo_type="space", revision=external.revision, allow_patterns=patterns)
    except RepositoryNotFoundError:
        raise ConfigError(KEY, external.spec, f"the hub has no metric {repository}; is the name right?") from None
    except RevisionNotFoundError:
        raise ConfigError(KEY, external.spec, f"{repository} has no revision {external.revision}") from None
    except LocalEntryNotFoundError:
        here = "the hub cannot be reached and its cache has no copy; path:<folder> needs no network"
        raise ConfigError(KEY, external.spec, here) from None
    except Exception as error:  # the hub client raises many kinds; all mean "cannot be had"
        raise ConfigError(KEY, external.spec, f"cannot be fetched from the hub: {_message(error)}") from None
    return Path(found)


def described(specs: Sequence[str], outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Return what the record says of each metric: where it is from, its pinned commit or hashes, and its interval.

    `outcomes` are annotated: one that has no value of an item is why there is no interval.
    """
    import evaluate

    found = {}
    for external in map(parsed, specs):
        folder = folder_of(external)
        scored = all(external.name in outcome.measured for outcome in outcomes)
        found[external.name] = {
            "from": external.spec,
            "revision": None if external.local else folder.name,
            "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.py"))},
            "evaluate": evaluate.__version__,
            "interval": "bootstrap over items" if scored else "none: it is no mean of its items' values",
        }
    return found


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(first_line(error).split())[:200]}"
