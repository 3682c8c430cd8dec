"""The command of a record, taken by Hydra from its beginning, gives the run's own id."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import small_runs

from analysis.views.report.reproduce import Reproducer
from harness.compose import compose
from harness.identity import identity, plain, resolved, run_id

CASES = (
    ("method=lora", "rank=8", "seed=3", "train.learning_rate=0.0003"),
    ("method=full", "rank=64", "train.learning_rate_factor=0.3", "train.max_steps=7"),
    ("model=bert_tiny", "method=qlora", "method.bits=8", "forgetting=none"),
    ("method=prompt", "method.init=text", "method.init_text='it''s, \"quoted\": \\${not} one'"),
    ("method=peft", "method.peft_type=LOHA", "+method.options.r=8", "+method.options.target_modules=all-linear"),
    ("method=adapter", "+train.other.torch_empty_cache_steps=10", "train.lr_scheduler_type=cosine"),
    ("task=boolq", "task.max_train=100", "task.template='{text}\n한국어 {text_pair}'"),
    ("forgetting=full", "~forgetting.probes.abilities", "forgetting.window=128"),
    ("forgetting=none", "+probe@forgetting.probes.mine=lm_loss", "+text@forgetting.texts.wikipedia=wikipedia"),
    ("sequence=[trec,rotten_tomatoes]", "+sequence_task.max_test=50", "sequence_between=keep"),
    ("task=asdiv", "task.metrics=[path:word_f1]", "task.metric=word_f1"),
    ("task=stsb", "task.number_from=generation", "forgetting=none"),
    ("experiment=quickstart",),
)

SLOW = CASES[1:]
"""Each composes four times and more, 3 s; the first says in fast tests whether it works at all."""


def record_of(*overrides: str) -> dict[str, Any]:
    """Return what a record keeps of a command, as JSON brings it back."""
    config = compose(*overrides)
    kept = {"id": run_id(config), "rank": config.method.rank_used, "config": resolved(config)}
    return json.loads(json.dumps(kept | {"identity": plain(identity(config))}))


def test_the_command_of_a_searched_run_trains_that_run_and_does_not_search_again() -> None:
    said = ("search.active=true", "search.configuration=abc", "search.max_runs=3", "train.learning_rate=0.0003")
    record = record_of("method=lora", "forgetting=none", *said)
    with Reproducer() as reproduce:
        found = reproduce(record)
    assert found.problem is None and "train.learning_rate=0.0003" in found.command
    assert "search" not in found.command


@pytest.fixture(scope="module")
def reproduce() -> Any:
    with Reproducer() as found:
        yield found


@pytest.mark.parametrize(
    "overrides", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES], ids=" ".join
)
def test_the_command_gives_the_same_run(overrides: tuple[str, ...]) -> None:
    record = record_of(*(o.replace("''", "\\'") for o in overrides))
    with Reproducer() as reproduce:
        found = reproduce(record)
    assert found.problem is None
    words = shlex.split(found.command)
    assert words[:3] == ["python", "-m", "harness.run"]
    assert run_id(compose(*words[3:])) == record["id"]


@pytest.mark.slow
def test_own_data_and_own_model_are_given_by_their_paths(tmp_path: Path, llama_folder: Path) -> None:
    data = small_runs.write_data(tmp_path / "my data") if (tmp_path / "my data").mkdir() is None else None
    assert data is not None
    config = small_runs.configure(
        tmp_path / "runs", f"model.path={llama_folder}", *small_runs.task("classification", data)
    )
    kept = {"id": run_id(config), "rank": config.method.rank_used, "config": resolved(config)}
    with Reproducer() as reproduce:
        found = reproduce(json.loads(json.dumps(kept)))
    assert found.problem is None
    assert run_id(compose(*shlex.split(found.command)[3:])) == kept["id"]


@pytest.mark.slow
def test_what_changed_since_is_named() -> None:
    record = record_of("model=bert_tiny")
    record["identity"]["model"]["wheel"]["version"] = "0.0.9"
    record["id"] = "lora-r16-0123456789"
    with Reproducer() as reproduce:
        found = reproduce(record)
    assert found.command.startswith("python -m harness.run model=bert_tiny")
    assert found.problem is not None and found.problem.endswith(": model.wheel.version changed since")


@pytest.mark.slow
def test_a_record_that_composes_no_more_says_why() -> None:
    record = record_of("model=bert_tiny")
    record["config"]["method"]["name"] = "gone"
    with Reproducer() as reproduce:
        problem = reproduce(record).problem
    assert problem is not None and problem.startswith("it does not compose here: ") and "\n" not in problem
