"""Sequences of tasks: the metrics on matrices made by hand, whole runs, and runs that were cut between tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
from probing import run, sequence_of, small
from small_runs import assert_same_run

from harness.compose import compose
from harness.config import Between, RunConfig
from harness.errors import ConfigError
from harness.execution.execute import execute
from harness.execution.phases import BASELINE, EVALUATE, HAND_OVER, PROBE, TRAIN, Phases
from harness.execution.reload import load_run
from harness.forgetting.sequence import intervals, transfer
from harness.identity import run_id
from harness.storage.outcomes import read_items
from harness.storage.record import Status, read_record
from harness.training.trainer import HarnessTrainer

pytestmark = pytest.mark.usefixtures("quick")
KINDS = ("classification", "multiple_choice", "instruction")
ENCODER_KINDS = ("classification", "multiple_choice")

R = np.array([[0.9, 0.3, 0.2], [0.7, 0.8, 0.4], [0.6, 0.7, 0.9]])
B = np.array([0.5, 0.25, 0.3])


def test_metrics_of_a_matrix_made_by_hand() -> None:
    found = transfer(R, B)
    assert found["average_accuracy"] == pytest.approx((0.6 + 0.7 + 0.9) / 3)
    assert found["backward_transfer"] == pytest.approx(((0.6 - 0.9) + (0.7 - 0.8)) / 2)
    assert found["forward_transfer"] == pytest.approx(((0.3 - 0.25) + (0.4 - 0.3)) / 2)
    assert found["forgetting"] == pytest.approx(((0.9 - 0.6) + (0.8 - 0.7)) / 2)
    assert found["forgetting_first_last"] == pytest.approx(-found["backward_transfer"])


def test_forgetting_takes_the_best_score_before_the_last_task() -> None:
    better_later = np.array([[0.5, 0.1, 0.0], [0.8, 0.6, 0.0], [0.7, 0.9, 0.5]])
    found = transfer(better_later, np.zeros(3))
    assert found["forgetting"] == pytest.approx(((0.8 - 0.7) + (0.6 - 0.9)) / 2)  # below zero: it gained
    assert found["forgetting_first_last"] == pytest.approx(((0.5 - 0.7) + (0.6 - 0.9)) / 2)
    assert found["backward_transfer"] == pytest.approx(0.25)


def test_two_tasks() -> None:
    found = transfer(np.array([[1.0, 0.5], [0.25, 0.75]]), np.array([0.5, 0.5]))
    assert found["backward_transfer"] == -0.75
    assert found["forward_transfer"] == 0.0
    assert found["forgetting"] == 0.75


def test_intervals_hold_the_values_and_keep_pairs_together() -> None:
    rng = np.random.default_rng(0)
    first, second = ([float(x) for x in rng.random(60) < 0.5] for _ in range(2))
    same = intervals([[first, second]] * 2, [first, second])["backward_transfer"].after
    assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)
    turned = [1 - value for value in first]
    score = intervals([[first, second], [turned, second]], [first, second])["backward_transfer"].after
    assert score.low < score.value < score.high
    assert score.value == pytest.approx(1 - 2 * sum(first) / 60)


def names_of_phases() -> list[str]:
    """Return the phases of a sequence of two tasks of an encoder, but for saving, which has no folder."""
    first, second = ENCODER_KINDS
    stages = [f"1-{first}-{what}" for what in (TRAIN, EVALUATE, HAND_OVER)]
    return [BASELINE, *stages, *(f"2-{second}-{what}" for what in (TRAIN, EVALUATE)), PROBE]


@pytest.fixture
def llama(llama_folder: Path, data_folder: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """Return a function from overrides to a sequence of three tasks on a tiny decoder."""

    def make(*overrides: str, folder: Path = tmp_path) -> RunConfig:
        return llama_sequence(folder, llama_folder, data_folder, *overrides)

    return make


def llama_sequence(folder: Path, llama: Path, data: Path, *overrides: str) -> RunConfig:
    model = ["model=custom", f"model.path={llama}", *small_runs.task("classification", data), "rank=4"]
    return sequence_of(small_runs.configure(folder, *model, *overrides), data, *KINDS)


@pytest.fixture(scope="module")
def whole_llama(
    llama_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> Callable[[Between], Path]:
    """Return a function to the folder of a sequence on the tiny decoder that nothing stopped, run once each."""

    @cache
    def make(between: Between) -> Path:
        config = llama_sequence(tmp_path_factory.mktemp("whole"), llama_folder, data_folder)
        folder, record = run(replace(config, sequence_between=between))
        assert record["status"] == Status.done, record["traceback"]
        return folder

    return make


@pytest.fixture(scope="module")
def whole(data_folder: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Callable[[Between], Path]:
    """Return a function to the folder of a sequence on the tiny encoder that nothing stopped, run once each."""

    @cache
    def make(between: Between) -> Path:
        model = ["model=bert_tiny", *small_runs.task("classification", data_folder), "rank=4"]
        single = small_runs.configure(tmp_path_factory.mktemp("whole"), *model)
        config = replace(sequence_of(single, data_folder, *ENCODER_KINDS), sequence_between=between)
        folder, record = run(config)
        assert record["status"] == Status.done, record["traceback"]
        return folder

    return make


@pytest.fixture
def bert(data_folder: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """Return a function from overrides to a sequence of two tasks on a tiny encoder."""

    def make(*overrides: str, folder: Path = tmp_path) -> RunConfig:
        model = ["model=bert_tiny", *small_runs.task("classification", data_folder)]
        return sequence_of(small_runs.configure(folder, *model, "rank=4", *overrides), data_folder, *ENCODER_KINDS)

    return make


@pytest.mark.slow
@pytest.mark.parametrize(("method", "between"), [("full", Between.keep), *(("lora", between) for between in Between)])
def test_decoder_learns_three_tasks_in_order(
    method: str, between: Between, llama: Callable[..., RunConfig], data_folder: Path
) -> None:
    config = replace(llama(f"method={method}", *small(data_folder)), sequence_between=between)
    folder, record = run(config)
    assert record["status"] == Status.done, record["traceback"]
    check_matrix(record, KINDS)
    assert not (folder / "stages").exists()
    history = small_runs.history(folder)
    assert [line["step"] for line in history] == list(range(1, 13))
    assert [line["task"] for line in history][::4] == list(KINDS)
    tokens = [line["tokens"] for line in history]
    assert tokens == sorted(tokens) and tokens[-1] == record["tokens"]
    assert record["forgetting"]["lm_loss"]["status"] == "measured"
    assert_comes_back(folder, config)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "lora", "bitfit", "head_only", "qlora", "adapter", "prompt"])
def test_encoder_has_a_head_for_each_task(name: str, bert: Callable[..., RunConfig]) -> None:
    merges = name in ("full", "lora", "bitfit", "head_only")
    config = replace(bert(f"method={name}"), sequence_between=Between.merge if merges else Between.keep)
    folder, record = run(config)
    assert record["status"] == Status.done, record["traceback"]
    check_matrix(record, ENCODER_KINDS)
    assert_comes_back(folder, config)


def test_a_frozen_body_forgets_nothing(bert: Callable[..., RunConfig]) -> None:
    """Only heads train, each task's own: what was learned first stays exactly as it was."""
    _, record = run(bert("method=head_only", "train.max_steps=20", "train.learning_rate=0.05"))
    matrix, base = record["sequence"]["R"], record["sequence"]["b"]
    assert matrix[1][0] == matrix[0][0]
    assert matrix[0][1] == base[1]  # the second head had not been trained yet
    assert record["forgetting"]["sequence"]["metrics"]["backward_transfer"]["after"]["value"] == 0.0


def check_matrix(record: dict[str, Any], kinds: tuple[str, ...]) -> None:
    matrix, base = np.array(record["sequence"]["R"]), np.array(record["sequence"]["b"])
    assert record["sequence"]["tasks"] == list(kinds)
    assert matrix.shape == (len(kinds), len(kinds)) and base.shape == (len(kinds),)
    metrics = record["forgetting"]["sequence"]["metrics"]
    for name, value in transfer(matrix, base).items():
        after = metrics[name]["after"]
        assert after["value"] == pytest.approx(float(value))
        assert after["low"] <= after["value"] + 1e-9 and after["value"] <= after["high"] + 1e-9
    if record["metric"] == "accuracy":
        assert matrix[-1, -1] == pytest.approx(record["scores"]["after"]["test"]["accuracy"]["value"])


@pytest.mark.slow
def test_text_that_any_task_of_a_sequence_trains_on_is_left_out(
    llama: Callable[..., RunConfig], data_folder: Path
) -> None:
    """The probes' second text is the file of the first task here."""
    config = sequence_of(llama("method=lora", *small(data_folder)), data_folder, "instruction", "classification")
    _, record = run(config)
    assert record["forgetting"]["lm_loss"]["notes"]["left_out"] == ["wikipedia"]


def assert_comes_back(folder: Path, config: RunConfig) -> None:
    """Require of the reloaded model the very outcomes that the run recorded of the last task."""
    model, _, prepared = load_run(folder)
    again = small_runs.answer(model, prepared.objective, prepared.questions, config)
    assert repr(again) == repr(read_items(folder / "items.parquet")["after"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cut", "between"), [(2, Between.merge), (5, Between.keep), (9, Between.merge), (11, Between.keep)]
)
def test_cut_sequence_ends_as_a_whole_one(
    cut: int,
    between: Between,
    llama: Callable[..., RunConfig],
    whole_llama: Callable[[Between], Path],
    tmp_path: Path,
) -> None:
    """Cut in a first, second or third task, right at its start or in the middle of it."""
    whole = whole_llama(between)
    config = replace(llama(folder=tmp_path / "cut"), sequence_between=between)
    steps = 0
    original = HarnessTrainer.compute_loss

    def interrupted(self: HarnessTrainer, *arguments: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == cut:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HarnessTrainer, "compute_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(config)
    assert read_record(small_runs.folder_of(config))["status"] == Status.running
    resumed, record = run(config)
    assert len(record["attempts"]) == 2
    assert_same_run(whole, resumed)


def cuts() -> list[tuple[str, str, Between]]:
    """Return the end of each phase with either way between tasks, and its beginning with one of them.

    A phase begins where the one before it ended; up to the end of the baseline, both ways have done the same.
    """
    baseline, *later = names_of_phases()
    ends = [("after", phase, between) for phase in later for between in Between]
    beginnings = [("before", phase, between) for phase, between in zip(names_of_phases(), cycle(Between), strict=False)]
    return [("after", baseline, Between.merge), *ends, *beginnings]


@pytest.mark.slow
@pytest.mark.parametrize(("when", "phase", "between"), cuts())
def test_sequence_cut_around_any_phase_loses_no_step(
    when: str,
    phase: str,
    between: Between,
    bert: Callable[..., RunConfig],
    whole: Callable[[Between], Path],
    tmp_path: Path,
) -> None:
    """Before a phase begins, and after its work but before it is marked as done or the record written."""
    config = replace(bert(folder=tmp_path / "cut"), sequence_between=between)
    original = Phases.once

    def cut(self: Phases, name: str, work: Callable[[Path], None]) -> Path:
        if name == phase and when == "before":
            raise KeyboardInterrupt
        found = original(self, name, work)
        if name == phase:
            raise KeyboardInterrupt
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Phases, "once", cut)
        with pytest.raises(KeyboardInterrupt):
            execute(config)
    resumed, record = run(config)
    assert_same_run(whole(between), resumed)
    assert record["interruptions"] == 0
    assert all(value >= 0 for value in record["seconds"].values())
    assert record["seconds"]["train"] > 0 and record["steps"] == 8


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [(["method=prompt"], "cannot be merged between tasks"), (["method=qlora"], "would quantise the weights again")],
)
def test_what_cannot_be_merged_is_not_applicable(
    overrides: list[str], reason: str, llama: Callable[..., RunConfig]
) -> None:
    _, record = run(llama(*overrides))
    assert record["status"] == Status.not_applicable
    assert reason in record["reason"] and "sequence_between=keep" in record["reason"]


def test_tasks_without_a_score_an_item_make_no_sequence(bert: Callable[..., RunConfig], data_folder: Path) -> None:
    _, record = run(sequence_of(bert(), data_folder, "classification", "regression"))
    assert record["status"] == Status.not_applicable
    assert "regression has no score an item" in record["reason"]


def test_sequence_is_part_of_the_identity(llama: Callable[..., RunConfig], data_folder: Path) -> None:
    config = llama()
    ids = {
        run_id(config),
        run_id(replace(config, sequence_between=Between.keep)),
        run_id(sequence_of(config, data_folder, *KINDS[::-1])),
        run_id(sequence_of(config, data_folder, *KINDS[:2])),
        run_id(replace(config, sequence=[], sequence_tasks={})),
    }
    assert len(ids) == 5


@pytest.mark.slow
def test_command_line_takes_presets() -> None:
    config = compose("sequence=[trec,rotten_tomatoes,boolq]", "+sequence_task.max_test=50")
    assert list(config.sequence_tasks) == ["trec", "rotten_tomatoes", "boolq"]
    assert config.task is config.sequence_tasks["boolq"]
    assert {task.max_test for task in config.sequence_tasks.values()} == {50}
    assert config.sequence_tasks["trec"].labels["HUM"] == " person"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sequence=[trec]", r"sequence=\[trec\]: needs at least two tasks"),
        ("sequence=[trec,boolq,trec]", "has trec twice"),
        ("sequence=[trec,bolq]", "sequence=bolq: no such task; did you mean boolq"),
    ],
)
def test_bad_sequences_are_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose(override)


def test_unknown_field_for_all_tasks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sequence_task\.max_tst=5: trec has no such field"):
        compose("sequence=[trec,boolq]", "+sequence_task.max_tst=5")
