"""A replayed second step holds what a second step holds that is run."""

from __future__ import annotations

import pytest

from harness.compose import compose
from harness.planning.allocator import CachingAllocator
from harness.planning.live import TEMPORARIES, WEIGHTS, LiveMemory
from harness.planning.plan import Planner, quiet
from harness.planning.quantised import state_tensors
from harness.planning.step import Rehearsal

TINY = ["model=bert_tiny", "tracker=none", "forgetting=none", "task.max_length=32", "rank=4"]


def run_twice(rehearsal: Rehearsal, batch_size: int) -> tuple[dict[str, int], int, str]:
    """Return live bytes, reserved bytes and the part of the peak of a second step that is really run."""
    import torch

    from harness.planning.gpu import WORKSPACE

    allocator = CachingAllocator()
    rehearsal.live = live = LiveMemory(allocator)
    model, items = rehearsal.skeleton.model, [rehearsal.objective.longest()] * batch_size
    with quiet(), rehearsal._context(), live:
        live.hold([*model.parameters(), *model.buffers(), *state_tensors(model)], WEIGHTS)
        rehearsal._hold_state()
        workspace = torch.empty(WORKSPACE, dtype=torch.uint8)
        live.hold([workspace], TEMPORARIES)
        rehearsal._step(items)
        live.restart()
        rehearsal._step(items)
    return live.peak.bytes, allocator.reserved, live.peak.where


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=full"],
        ["method=full", "train.optim=paged_adamw_8bit"],
        ["method=lora", "train.gradient_accumulation_steps=2"],
        ["method=qlora"],
        ["method=prefix"],
    ],
)
def test_the_second_step_is_the_first_over_again_beside_the_optimisers_state(overrides: list[str]) -> None:
    config = compose(*TINY, *overrides)
    run, reserved, where = run_twice(Planner(config).rehearsal, 4)
    with quiet():
        replayed = Planner(config).rehearsal.peak(4)
    assert (replayed.moment.bytes, replayed.reserved, replayed.moment.where) == (run, reserved, where)
    assert run["optimiser"] + run["paged"] > 0, "which the first step did not find"
