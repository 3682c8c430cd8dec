"""Forgetting events counted by hand, and over the evaluations of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.forgetting.events import FILE, Events, forgotten, summary
from harness.tasks.base import Outcome


@pytest.mark.parametrize(
    ("seen", "count"), [([0, 0, 0], 0), ([1, 1, 1], 0), ([0, 1, 1], 0), ([1, 0, 1], 1), ([1, 0, 1, 0], 2), ([1], 0)]
)
def test_events_are_counted(seen: list[int], count: int) -> None:
    assert forgotten(seen) == count


def test_shares_by_hand() -> None:
    found = summary({"kept": [0, 1, 1], "lost": [1, 0, 0], "twice": [1, 0, 1], "never": [0, 0, 0]})
    values = {name: change["after"]["value"] for name, change in found.items()}
    assert values == {"events_per_item": 0.5, "forgotten": 0.5, "unforgettable": 0.25, "never_learned": 0.25}


def outcomes(*right: int) -> dict[str, list[Outcome]]:
    return {"validation": [Outcome(f"item-{n}", "", "", float(value)) for n, value in enumerate(right)]}


def test_evaluations_are_kept_and_a_step_done_again_counts_once(tmp_path: Path) -> None:
    events = Events(tmp_path)
    assert events.results() == ({}, {})
    events.add(2, outcomes(1, 1, 0))
    assert events.results() == ({}, {})
    events.add(4, outcomes(0, 1, 1))
    with (tmp_path / FILE).open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "ri')  # cut by a power failure
    with (tmp_path / FILE).open("a", encoding="utf-8") as file:
        file.write("\n")
    events.add(4, outcomes(0, 1, 1))
    events.add(6, outcomes(1, 0, 1))
    record, items = Events(tmp_path).results()
    assert record["events"]["notes"] == {"evaluations": 3, "steps": [2, 4, 6]}
    assert [o.score for o in items["forgetting/events/validation"]] == [1.0, 1.0, 0.0]
    assert record["events"]["metrics"]["validation/forgotten"]["after"]["value"] == pytest.approx(2 / 3)


def test_graded_answers_have_no_events(tmp_path: Path) -> None:
    events = Events(tmp_path)
    for step in (1, 2):
        events.add(step, {"validation": [Outcome("a", "", "", 0.5)]})
    assert events.results() == ({}, {})
