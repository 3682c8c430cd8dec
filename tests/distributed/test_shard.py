"""Two processes that hold a part of the base each give what one process gives, and save it as one process does."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from safetensors.torch import load_file, save_file
from small_runs import run
from together import assert_same_numbers, in_two
from torch import nn

from harness.config import RunConfig
from harness.distributed.limits import check_processes
from harness.distributed.state import _append, _header, untied
from harness.errors import ConfigError
from harness.execution.reload import load_run
from harness.runtime import resolve
from harness.storage.record import read_record

ASKED = {
    "full": ["method=full", "train.gradient_accumulation_steps=3"],
    "lora": ["method=lora"],
    "rslora, recomputed": ["method=rslora", "train.gradient_checkpointing=true"],
    "bitfit": ["method=bitfit", "method.add_biases=true"],
    "adapter": ["method=adapter"],
    "generation": ["method=lora", "task=instruction"],
}
SHARD = ["distributed=shard", "train.fused_loss=false", "train.use_cpu=true", "rank=4"]


@pytest.mark.slow
def test_a_base_in_parts_gives_what_a_whole_one_gives(
    llama_folder: Path, gpt2_folder: Path, data_folder: Path, tmp_path: Path, quick: None
) -> None:
    """With probes before, on the way and after: what is gathered for an evaluation must not be trained or frozen."""
    model = ["model=custom", f"model.path={llama_folder}"]
    probes = [*small_runs.small_probes(data_folder), "forgetting.every=2"]
    asked = {}
    for name, chosen in ASKED.items():
        kind = "instruction" if name == "generation" else "classification"
        asked[name] = [
            *model,
            *small_runs.task(kind, data_folder),
            *SHARD,
            *chosen,
            *(probes if kind[0] == "c" else []),
        ]
    asked["bfloat16"] = [*asked["full"], "model.dtype=bfloat16"]
    two = dict(
        zip(asked, in_two([small_runs.configure(tmp_path / "two", *one) for one in asked.values()]), strict=True)
    )
    bfloat16 = two.pop("bfloat16")
    assert read_record(bfloat16)["status"] == "done"  # another order of sums is another rounding, of 3 digits
    for name, folder in two.items():
        one, record = run(tmp_path / "one", *asked[name])
        assert_same_numbers(one, folder)
        assert_same_probes(record["forgetting"], read_record(folder)["forgetting"])
        assert {path.name for path in (one / "trained").iterdir()} == {p.name for p in (folder / "trained").iterdir()}
    tuned, _, _ = load_run(two["full"])  # by one process, as any other run
    assert not any(parameter.isnan().any() for parameter in tuned.parameters())


def assert_same_probes(one: dict[str, Any], two: dict[str, Any]) -> None:
    for label, entry in one.items():
        for name, change in entry["metrics"].items():
            other = two[label]["metrics"][name]
            for part, score in change.items():
                if score is not None and score["value"] is not None:
                    assert other[part]["value"] == pytest.approx(score["value"], rel=1e-3, abs=1e-5), (label, name)


def checked(*overrides: str) -> None:
    config: RunConfig = small_runs.configure("runs", "processes=2", "distributed=shard", *overrides)
    check_processes(config, resolve(config))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method=qlora"], "FSDP2 breaks bitsandbytes' quantised parameters"),
        (["method=prompt"], "virtual tokens enter by a part of the base"),
        (["method=lora", "method.init=pissa"], "method.init=pissa decomposes whole matrices"),
        (["method=lora", "method.dora=true"], "method.dora takes norms of whole matrices"),
        (["method=peft", "method.peft_type=VERA"], "only IA3 was tried"),
        (["method=full", "train.optim=adafactor"], "train.optim=adafactor: needs whole tensors"),
        (["method=full", "train.fused_loss=true"], "train.fused_loss=True: "),
        (["method=full", "offload=true", "train.use_cpu=true"], "offload=True: moves memory off a GPU"),
        (["method=full", "train.per_device_train_batch_size=1"], "train.per_device_train_batch_size=1: "),
    ],
)
def test_what_a_base_in_parts_cannot_do_is_refused_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        checked(*overrides)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_replicate_takes_what_a_base_in_parts_refuses() -> None:
    config = small_runs.configure("runs", "processes=2", "method=qlora")
    check_processes(config, resolve(config))


def test_a_streamed_file_is_the_one_that_safetensors_writes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {"b": torch.randn(3, 2), "a": torch.randn(5).bfloat16(), "c": torch.arange(4), "empty": torch.zeros(0, 2)}
    save_file(tensors, tmp_path / "library.safetensors", metadata={"format": "pt"})
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    with (tmp_path / "streamed.safetensors").open("wb") as file:
        file.write(_header({name: tensors[name] for name in order}))
        for name in order:
            _append(tensors[name], file)
    ours, theirs = (load_file(tmp_path / f"{name}.safetensors") for name in ("streamed", "library"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    head = (tmp_path / "streamed.safetensors").read_bytes()[:8]
    assert struct.unpack("<Q", head)[0] % 8 == 0  # so that what follows is aligned


def test_tensors_with_two_names_are_kept_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    assert list(untied(model)) == ["0.weight"]
