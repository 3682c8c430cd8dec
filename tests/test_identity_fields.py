"""Every field of every dataclass of the configuration changes a run's id, or stands in a list with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
import small_runs

import harness.forgetting.probes
import harness.methods
import harness.tasks
from harness.config import RunConfig
from harness.forgetting.base import PROBES
from harness.identity import DESCRIPTIVE, OPERATIONAL, OUTSIDE, UNFIT, run_id
from harness.methods.base import METHODS
from harness.tasks.base import TASKS

METHODS.discover(harness.methods)
TASKS.discover(harness.tasks)
PROBES.discover(harness.forgetting.probes)
KINDS = ("classification", "multiple_choice", "instruction", "regression", "language_modeling")
SEQUENCES = ("sequence", "sequence_between", "sequence_tasks")
"""Keys that count where there is a sequence."""


def reason(path: str) -> str | None:
    """Return why a field changes no id, None where it has to."""
    *_, last = parts = path.split(".")
    if parts[0] in OUTSIDE:
        return OUTSIDE[parts[0]]
    if parts[0] == "train" and len(parts) == 2 and last != "learning_rate_factor":
        return OPERATIONAL.get(last)
    if parts[0] in ("model", "task") and len(parts) == 2:
        return DESCRIPTIVE.get(last)
    if parts[:2] == ["forgetting", "texts"] and len(parts) == 4:
        return DESCRIPTIVE.get(last)
    return UNFIT.get(last) if parts[0] == "forgetting" and len(parts) == 2 else None


def leaves(value: Any, path: str) -> Iterator[tuple[Any, str, Any, str]]:
    """Yield (dataclass, field, its type, path) of every field that holds no dataclass itself."""
    hints = get_type_hints(type(value))
    for field in fields(value):
        held, where = getattr(value, field.name), f"{path}.{field.name}".lstrip(".")
        if is_dataclass(held):
            yield from leaves(held, where)
        elif isinstance(held, dict) and held and all(is_dataclass(member) for member in held.values()):
            for name, member in held.items():
                yield from leaves(member, f"{where}.{name}")
        else:
            yield value, field.name, hints[field.name], where


def other(value: Any, hint: Any, where: str, made: Path) -> Any:
    """Return another value of a field's type."""
    if where.endswith("path"):  # of a model folder, a folder of task files, or a file
        return str({"model.path": made / "model"}.get(where, made if "include" in where else made / "other.yaml"))
    if where.endswith(".metrics"):
        return ["evaluate:bleu"]
    kinds = [kind for kind in (get_args(hint) or [hint]) if kind is not NoneType]
    sample = value if value is not None else {str: "", int: 0, float: 0.0, bool: False}.get(kinds[0], {})
    if isinstance(sample, bool):
        return not sample
    if isinstance(sample, Enum):
        return next(member for member in type(sample) if member is not sample)
    if isinstance(sample, int | float):
        return sample + 1
    if isinstance(sample, str):
        return sample + "x"
    return [*sample, "x"] if isinstance(sample, list) else {**sample, "x": 1}


def check_every_field(base: RunConfig, chosen: str, tmp_path: Path) -> int:
    """Change each field below `chosen` in turn; return how many there were."""
    (tmp_path / "other.yaml").write_text("task: other\n", encoding="utf-8")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}", encoding="utf-8")
    expected, count = run_id(base), 0
    for number, (_, name, hint, where) in enumerate(leaves(base, "")):
        if not where.startswith(chosen) or where.split(".")[0] in SEQUENCES:
            continue
        changed = deepcopy(base)
        holder = list(leaves(changed, ""))[number][0]
        setattr(holder, name, other(getattr(holder, name), hint, where, tmp_path))
        same = run_id(changed) == expected
        assert same == (reason(where) is not None), f"{where}: {reason(where) or 'changes no id and has no reason'}"
        count += 1
    return count


@pytest.fixture
def llama(data_folder: Path, llama_folder: Path) -> list[str]:
    return ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder)]


@pytest.mark.slow
def test_every_field_of_the_configuration(llama: list[str], data_folder: Path, tmp_path: Path) -> None:
    base = small_runs.configure("runs", *llama, *small_runs.small_probes(data_folder))
    assert check_every_field(base, "", tmp_path) > 150


@pytest.mark.parametrize("name", METHODS.names())
def test_every_field_of_every_method(name: str, llama: list[str], tmp_path: Path) -> None:
    base = small_runs.configure("runs", *llama, f"method={name}")
    assert check_every_field(base, "method", tmp_path) == len(fields(METHODS[name]))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_every_kind_of_task(kind: str, data_folder: Path, llama_folder: Path, tmp_path: Path) -> None:
    model = ["model=custom", f"model.path={llama_folder}"]
    base = small_runs.configure("runs", *model, *small_runs.task(kind, data_folder))
    assert check_every_field(base, "task", tmp_path) > 30
    assert set(KINDS) == set(TASKS.names())


def test_every_probe_is_among_those_whose_fields_were_changed(llama: list[str], data_folder: Path) -> None:
    base = small_runs.configure("runs", *llama, *small_runs.small_probes(data_folder))
    assert {probe.name for probe in base.forgetting.probes.values()} == set(PROBES.names())


def test_every_reason_is_of_a_field_that_there_is(llama: list[str], data_folder: Path) -> None:
    base = small_runs.configure("runs", *llama, *small_runs.small_probes(data_folder))
    where = [path for *_, path in leaves(base, "")]
    assert {path.split(".")[0] for path in where} >= set(OUTSIDE)
    assert {path.split(".")[1] for path in where if path.startswith("train.")} >= set(OPERATIONAL)


def test_what_a_sequence_is_made_of_counts(llama: list[str], data_folder: Path, llama_folder: Path) -> None:
    def sequence(*kinds: str) -> RunConfig:
        base = small_runs.configure("runs", *llama)
        model = ["model=custom", f"model.path={llama_folder}"]
        tasks = {k: small_runs.configure("runs", *model, *small_runs.task(k, data_folder)).task for k in kinds}
        base.sequence, base.sequence_tasks, base.task = list(kinds), tasks, tasks[kinds[-1]]
        return base

    first, between, other_task = (sequence("classification", "instruction") for _ in range(3))
    between.sequence_between = next(m for m in type(first.sequence_between) if m is not first.sequence_between)
    other_task.sequence_tasks["classification"].max_length += 1
    turned = sequence("instruction", "classification")
    assert len({run_id(config) for config in (first, between, other_task, turned)}) == 4


FILES = {
    "chat_template.jinja": "{{ messages }} more",
    "additional_chat_templates/tool.jinja": "{{ messages }}",
    "tokenizer_config.json": "{}",
    "config.json": None,
}


@pytest.mark.parametrize("name", FILES)
def test_an_edit_of_any_file_that_is_read_makes_another_run(
    name: str, llama: list[str], llama_folder: Path, tmp_path: Path
) -> None:
    import shutil

    own = tmp_path / "model"
    shutil.copytree(llama_folder, own)
    overrides = [*llama, f"model.path={own}"]
    before = run_id(small_runs.configure("runs", *overrides))
    file = own / name
    file.parent.mkdir(exist_ok=True)
    text = FILES[name]
    file.write_text(file.read_text(encoding="utf-8") + "\n" if text is None else text, encoding="utf-8")
    assert run_id(small_runs.configure("runs", *overrides)) != before
