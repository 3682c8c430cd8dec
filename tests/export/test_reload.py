"""A run brought back from its folder, and what is said where the folder is damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from exported_runs import METHODS, Room, cases, configure, copied, logits
from safetensors.torch import load_file, save_file

from harness import export, identity
from harness.errors import RecordError
from harness.execution import reload
from harness.export import Request

pytestmark = pytest.mark.usefixtures("quick")


def test_load_run_brings_the_tuned_model_back(trained: Any) -> None:
    run = trained("encoder", "bitfit")
    model, backbone, prepared = reload.load_run(run.folder)
    assert torch.equal(logits(model), run.logits)
    assert not model.training
    assert backbone.kind == "encoder"
    assert len(prepared.splits.test) == 6


@pytest.mark.parametrize(("kind", "name"), cases(list(METHODS)))
def test_configuration_survives_the_record(kind: str, name: str, room: Room) -> None:
    config = configure(room, kind, name)
    record = {"id": "some", "config": json.loads(json.dumps(identity.resolved(config)))}
    again = reload.config_of(record)
    assert identity.resolved(again) == record["config"]
    assert identity.run_id(again) == identity.run_id(config)
    assert types_of(again) == types_of(config)


def types_of(value: Any) -> Any:
    """Return the types of a configuration's parts: enums and dataclasses, not text and dictionaries."""
    if hasattr(value, "__dataclass_fields__"):
        return type(value), {name: types_of(getattr(value, name)) for name in value.__dataclass_fields__}
    return type(value) if isinstance(value, Enum | str | dict) else None


@pytest.mark.parametrize("task", ["trec", "asdiv", "social_iqa", "stsb", "openwebtext"])
def test_configuration_of_every_kind_of_task_survives_the_record(task: str) -> None:
    config = small_runs.configure("runs", "model=smollm2_135m", f"task={task}")
    again = reload.config_of({"id": "some", "config": json.loads(json.dumps(identity.resolved(config)))})
    assert again.task == config.task
    assert again.model == config.model


def broken(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        record = json.loads((folder / "record.json").read_text())
        change(record)
        (folder / "record.json").write_text(json.dumps(record))

    return apply


def cut(folder: Path) -> None:
    path = folder / "record.json"
    path.write_bytes(path.read_bytes()[:100])


def cut_weights(folder: Path) -> None:
    path = folder / "trained" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def another_shape(folder: Path) -> None:
    path = folder / "trained" / "adapter_model.safetensors"
    save_file({name: tensor[:1].clone() for name, tensor in load_file(path).items()}, path)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut record": (cut, "damaged"),
    "failed": (broken(lambda r: r.update(status="failed", reason="loss is nan")), "not done but failed: loss is nan"),
    "running": (broken(lambda r: r.update(status="running")), "not done but running"),
    "newer schema": (broken(lambda r: r.update(schema_version=99)), "newer"),
    "unknown key": (
        broken(lambda r: r["config"]["train"].update(max_stepz=1)),
        r"train\.max_stepz: .*did you mean max_steps",
    ),
    "unknown method": (broken(lambda r: r["config"]["method"].update(name="lroa")), "did you mean lora"),
    "unknown method key": (broken(lambda r: r["config"]["method"].update(rnk=1)), r"method\.rnk: .*did you mean rank"),
    "no scores": (broken(lambda r: r.pop("scores")), "damaged, its results lack 'scores'"),
    "no task": (broken(lambda r: r["config"].pop("task")), "configuration is damaged"),
    "text for train": (broken(lambda r: r["config"].update(train="x")), "configuration is damaged"),
    "bad enum": (broken(lambda r: r["config"]["model"].update(dtype="float8")), "'float8' is not a valid DType"),
    "rank 0": (broken(lambda r: r["config"]["method"].update(rank=0)), "rank=0: must be at least 1"),
    "other base": (
        broken(lambda r: r["hashes"]["model"].update({"model.safetensors": "0"})),
        "changed since the run: model.saf",
    ),
    "no state": (lambda folder: shutil.rmtree(folder / "trained"), "trained state is missing"),
    "cut weights": (cut_weights, "trained state cannot be read"),
    "weights of another shape": (another_shape, "trained state cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_runs_are_one_line(damage: str, trained: Any, tmp_path: Path) -> None:
    folder = copied(trained("decoder", "lora"), tmp_path)
    change, message = DAMAGE[damage]
    change(folder)
    with pytest.raises(RecordError, match=message) as raised:
        export.export(Request(str(folder), str(tmp_path / "to")))
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_data_may_be_gone(trained: Any, tmp_path: Path) -> None:
    folder = copied(trained("decoder", "lora"), tmp_path)
    broken(lambda r: r["config"]["task"]["data"]["train"].update(path="gone.jsonl"))(folder)
    assert export.export(Request(str(folder), str(tmp_path / "to"))).is_dir()
