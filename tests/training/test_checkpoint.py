"""States come back as they were: nested, of every type, and no file of them is a pickle."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import small_runs
import torch
from torch import nn

from harness import runtime
from harness.training.checkpoint import (
    RESUME,
    latest,
    load_state,
    page_again,
    random_state,
    restore_random_state,
    save_state,
    step_of,
)


def same(one: Any, other: Any) -> bool:
    """Compare nested states; tensors by type, shape and bits, everything else by type and value."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def roundtrip(state: Any, folder: Path) -> Any:
    save_state(folder, "state", state)
    assert {path.name for path in folder.iterdir()} == {"state.json", "state.safetensors"}
    return load_state(folder, "state")


def test_nested_states_come_back(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    state = {
        "tensors": [torch.ones(2, 3), torch.tensor(3), torch.zeros(0), torch.ones(3, dtype=torch.uint8).bool()],
        "halves": (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.float16)),
        "views": [shared, shared[::2], shared.reshape(2, 3).T],
        7: {0: {"step": torch.tensor(4.0), "lr": 0.1}, 1: None},
        "plain": [True, 1, 1.5, "text", None, float("inf"), 2**70, []],
        "names": {"tensor": "0", "dict": []},
        (1, "a"): {},
    }
    assert same(roundtrip(state, tmp_path), state)


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot hold set"):
        save_state(tmp_path, "state", {"a": [{1}]})


def optimisers() -> list[Any]:
    import bitsandbytes as bnb
    from transformers.optimization import Adafactor

    return [
        pytest.param(lambda p: torch.optim.AdamW(p, lr=1e-2), id="adamw"),
        pytest.param(lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9), id="sgd"),
        pytest.param(lambda p: Adafactor(p, lr=1e-2, scale_parameter=False, relative_step=False), id="adafactor"),
        pytest.param(lambda p: bnb.optim.AdamW8bit(p, lr=1e-2), id="adamw_8bit"),
        pytest.param(lambda p: bnb.optim.AdamW32bit(p, lr=1e-2), id="adamw_32bit"),
    ]


def train(model: nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        loss = model(torch.linspace(-1, 1, 8 * 80).reshape(8, 80)).square().sum()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()


@pytest.mark.parametrize("make", optimisers())
def test_optimiser_goes_on_as_if_never_saved(make: Any, tmp_path: Path) -> None:
    """80 x 64 weights: bitsandbytes keeps the state of fewer than 4096 values in 32 bits."""
    torch.manual_seed(0)
    models = [nn.Linear(80, 64) for _ in range(2)]
    first = make(models[0].parameters())
    train(models[0], first, 3)
    models[1].load_state_dict(models[0].state_dict())
    second = make(models[1].parameters())
    second.load_state_dict(roundtrip(first.state_dict(), tmp_path))
    for model, optimiser in zip(models, (first, second), strict=True):
        train(model, optimiser, 3)
    assert torch.equal(models[0].weight, models[1].weight)
    assert same(first.state_dict(), second.state_dict())


def draw() -> list[Any]:
    return [random.random(), random.gauss(0, 1), np.random.rand(3).tolist(), np.random.randn(1).tolist(), torch.rand(2)]


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    here = runtime.resolve(small_runs.configure(tmp_path))
    draw()  # leaves a second gaussian number waiting in two of the generators
    state = roundtrip(random_state(here), tmp_path)
    expected = draw()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    restore_random_state(state, here)
    assert same(draw(), expected)


def test_random_state_of_a_gpu_is_restored_where_there_is_none(tmp_path: Path) -> None:
    here = runtime.resolve(small_runs.configure(tmp_path, "train.use_cpu=true"))
    state = random_state(here)
    assert state["cuda"] == []
    expected = draw()
    restore_random_state(state | {"cuda": [torch.zeros(16, dtype=torch.uint8)]}, here)
    assert same(draw(), expected)


def test_resumed_state_of_a_paged_optimiser_is_paged_again() -> None:
    """bitsandbytes loads it as plain tensors of the GPU; with a stand-in for its optimiser, since pages need one."""
    parameter, moment = torch.nn.Parameter(torch.zeros(3, 2)), torch.rand(3, 2)
    paged: list[torch.Tensor] = []

    class Optimiser:
        is_paged = True
        state: ClassVar[dict[Any, Any]] = {parameter: {"step": 7, "state1": moment, "absmax": torch.ones(1)}}

        def get_state_buffer(self, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
            paged.append(torch.zeros_like(like, dtype=dtype))
            return paged[-1]

    class Wrapped:
        optimizer = Optimiser()

    page_again(Wrapped())
    (held,) = paged
    assert Optimiser.state[parameter]["state1"] is held and torch.equal(held, moment)
    assert Optimiser.state[parameter]["step"] == 7
    page_again(torch.optim.AdamW([parameter]))  # which has no pages


def test_latest_is_the_newest_that_can_be_resumed_from(tmp_path: Path) -> None:
    assert latest(tmp_path / "none") is None
    for name in ("checkpoint-9", "checkpoint-10", ".checkpoint-30.part"):
        (tmp_path / name / RESUME).mkdir(parents=True)
        (tmp_path / name / RESUME / "progress.json").touch()
    (tmp_path / "checkpoint-20").mkdir()  # kept for its weights only
    found = latest(tmp_path)
    assert found == tmp_path / "checkpoint-10"
    assert found is not None
    assert step_of(found) == 10
