"""Peak and time of runs on this machine: measured rates, estimates that are kept, and what says them."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from rich.console import Console
from rich.progress import Progress

from harness import runtime
from harness.config import RunConfig
from harness.planning import estimate as estimates
from harness.planning.cards import Card
from harness.planning.estimate import duration, estimate, kept, typical
from harness.planning.machine import quickest, share, this_machine
from harness.planning.work import Work, noted
from harness.progress import Remaining
from harness.sweep import Planned, describe

pytestmark = pytest.mark.usefixtures("quick")
FAST = Card("this machine", 2**34, 0.1, 20.0, launch=1e-6, used=1.0)


@pytest.fixture
def config(data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Return a tiny run whose estimates are kept in a folder of the test, by rates that nothing measured."""
    monkeypatch.setenv("PEFT_HARNESS_CACHE", str(Path("~/.cache/peft-harness").expanduser()))
    monkeypatch.setattr(estimates, "cache_root", lambda _: tmp_path)
    monkeypatch.setattr("harness.planning.machine.this_machine", lambda *_: FAST)
    tiny = ["model=bert_tiny", "rank=2", *small_runs.task("classification", data_folder)]
    return small_runs.configure(tmp_path / "runs", *tiny)


def test_a_kernel_takes_its_operations_or_its_traffic_or_its_launch() -> None:
    work = Work([(10**9, 0), (0, 10**9), (0, 0)])
    assert work.seconds(FAST) == pytest.approx(1e9 / 1e11 + 1e9 / 2e10 + 1e-6)
    assert work.seconds(replace(FAST, overlaps=False)) == pytest.approx(1e9 / 1e11 + 1e9 / 2e10 + 3e-6)
    assert work.seconds(replace(FAST, bandwidth=None)) is None


@pytest.mark.parametrize("overlaps", [True, False])
def test_the_share_of_the_rates_that_is_used_gives_the_step_its_seconds(overlaps: bool) -> None:
    work = Work([(10**9, 0), (0, 10**9), (0, 0)])
    slow = replace(FAST, overlaps=overlaps)
    assert work.seconds(replace(slow, used=share(work, 0.2, slow))) == pytest.approx(0.2, rel=1e-4)
    assert share(work, 1e-9, slow) == 1.0, "nothing is faster than its rates"
    assert share(work, 1e9, slow) == 0.05


def test_what_is_computed_is_noted_with_its_traffic() -> None:
    one, other = torch.ones(3, 4), torch.ones(4, 5)
    with noted() as work:
        (one @ other).view(5, 3)
    assert work.kernels == [(2 * 3 * 4 * 5, 4 * (12 + 20 + 15))]


def test_an_estimate_is_kept_and_does_not_depend_on_seed_or_rate(config: RunConfig) -> None:
    assert kept(config) is None
    found = estimate(config)
    assert found.steps == 4
    assert found.seconds == found.steps * found.step_seconds > 0
    other = replace(config, seed=3, train=replace(config.train, learning_rate=0.5))
    assert kept(other) == found == kept(config)
    assert kept(replace(config, train=replace(config.train, per_device_train_batch_size=2))) is None


def test_a_damaged_estimate_is_none(config: RunConfig) -> None:
    estimate(config)
    estimates._file(config).write_text("{", encoding="utf-8")
    assert kept(config) is None


def test_a_dry_run_says_peak_and_time_where_asked(config: RunConfig) -> None:
    asked = replace(config, estimate=True)
    heading, line = describe([Planned([], asked, "lora-r2-0", "new")], 1).splitlines()[:2]
    assert heading.split()[3:6] == ["peak", "GiB", "training"]
    assert 0 < float(line.split()[3]) < 0.5
    assert " about " in line and " to " in line
    assert "peak GiB" not in describe([Planned([], config, "lora-r2-0", "new")], 1)
    done = describe([Planned([], asked, "lora-r2-0", "done")], 1).splitlines()[1]
    assert len(done.split()) == 3, "what is done is not planned"


def test_the_typical_item_has_the_mean_length() -> None:
    assert typical([{"length": length} for length in (1, 2, 9, 5, 30)])["length"] == 9


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.14, "3.1 s"), (45.2, "45 s"), (600, "10 min"), (9000, "2.5 h"), (89, "89 s")]
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_this_machine_is_measured_once(tmp_path: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("harness.planning.machine.SECONDS", 0.02)
    here = runtime.resolve(config)
    first = this_machine(here, tmp_path / "a")
    assert first.teraflops is not None and 1e-4 < first.teraflops < 1e4
    assert first.bandwidth is not None and 0.1 < first.bandwidth < 1e5
    assert 1e-8 < first.launch < 1e-2
    assert 0.05 < first.used <= 1
    assert this_machine(here, tmp_path / "a") == first, "read, not measured again"
    monkeypatch.setattr("harness.planning.machine.measure", lambda *_: pytest.fail("measured again"))
    assert this_machine(here, tmp_path / "a") == first


def test_the_quickest_repetition_counts(config: RunConfig) -> None:
    waits = iter([0.02, 0.0, *[0.01] * 1000])

    def work() -> Any:
        import time

        time.sleep(next(waits))
        return torch.ones(1)

    assert quickest(work, runtime.resolve(config)) < 0.01


def test_a_bar_begins_with_the_estimate_and_goes_on_with_its_steps() -> None:
    column = Remaining(compact=True)
    with Progress(console=Console(file=StringIO())) as progress:
        progress.add_task("run", total=10, about=75.0)
        progress.add_task("run", total=10, about=None)
        estimated, plain = progress.tasks
        assert column.render(estimated).plain == "about 01:15"
        assert "about" not in column.render(plain).plain
