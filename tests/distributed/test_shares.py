"""Who takes which items: all processes together those of one, in the same steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import TrainConfig
from harness.distributed import group, sharing
from harness.errors import ConfigError
from harness.training.order import Share


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))
def test_all_processes_together_take_the_configured_items_in_each_step(
    batch: int, accumulation: int, processes: int, steps: int
) -> None:
    train = TrainConfig(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    order = list(range(batch * accumulation * steps))
    if batch < processes and accumulation % processes:
        with pytest.raises(ConfigError, match=r"^train\.per_device_train_batch_size=\d: gives not every one of"):
            Share.of(train, 0, processes)
        return
    shares = [Share.of(train, rank, processes) for rank in range(processes)]
    taken = [share.of_order(order) for share in shares]
    per_step = batch * accumulation
    for step in range(steps):
        found: list[int] = []
        for share, items in zip(shares, taken, strict=True):
            own = share.rows * share.batches
            assert share.rows <= batch  # what fits on a device in one process fits in several
            found += items[step * own : (step + 1) * own]
        assert sorted(found) == order[step * per_step : (step + 1) * per_step]


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_batches_are_shared_so_that_every_process_has_equally_many(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "size", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(group, "rank", lambda rank=rank: rank)
        parts.append(list(sharing.share(range(count))))
    assert {number for part in parts for number in part} == set(range(count))
    assert len({len(part) for part in parts}) == 1 and len(parts[0]) == -(-count // 3)


def test_one_process_is_a_group_of_one(tmp_path: Path) -> None:
    assert (group.size(), group.rank(), group.first(), group.gathered(3), group.from_first(4)) == (1, 0, True, [3], 4)
    assert group.kept_together({"a": 1}) == {"a": 1} and group.own({"a": 1}) == {"a": 1}
    with group.folder_of_first(tmp_path / "new") as made:
        (made / "x").write_text("x", encoding="utf-8")
    assert (tmp_path / "new" / "x").exists()
