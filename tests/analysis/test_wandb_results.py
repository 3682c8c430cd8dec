"""What the analysis adds to a run in W&B: read back from offline files, and as a server joins it with training's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import call
from made_results import write_result
from made_runs import Made, make_run, make_sweep
from small_runs import configure
from wandb_server import Server, own_session, read_file, serve

from analysis.effects.blocks import effects_of
from analysis.effects.comparisons import compare
from analysis.errors import AnalysisError
from analysis.exchange.peft_suite.importing import import_results
from analysis.exchange.wandb.findings import (
    FORGOTTEN,
    FROM_TABLE,
    PREFIX,
    SINGULAR_VALUES,
    VERDICT,
    VERDICTS,
    Findings,
    findings,
    summary,
    verdicts,
)
from analysis.exchange.wandb.sending import NOTE, place, send
from analysis.records import read_runs, record, samples
from analysis.wandb import COMMAND, Settings, add
from harness import tracking
from harness.storage.files import write_json
from harness.tracking import wandb as wandb_tracking

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def _own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with own_session(tmp_path, monkeypatch):
        yield


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serve(monkeypatch, Server()) as serving:
        yield serving


def tracked(folder: Path, mode: str = "offline", made: Made | None = None) -> Path:
    """Write a run and track it as training would, with three steps of history."""
    overrides = ("method=lora", "rank=4", "tracker=wandb", f"tracker.mode={mode}")
    run = make_run(folder, *overrides, made=made or Made(intruders=7))
    whole = record(run)
    config = configure(folder, "model=bert_tiny", "task=trec", *overrides)
    tracker = tracking.start(config, whole["config"], whole["id"], run)
    for step in (1, 2, 3):
        tracker.log({"loss": 1 / step}, step)
    tracker.summarise(whole)
    tracker.finish("done")
    wandb_tracking.wandb_library().teardown()
    write_json(run / "record.json", whole | {"tracker": tracker.url_or_folder})
    return run


def row(run: Path) -> pd.Series[Any]:
    """Return a run's row of the tidy table."""
    return read_runs(run).table.iloc[0]


def offline(run: Path) -> list[Path]:
    """Return a run's offline files, oldest first."""
    wandb_tracking.wandb_library().teardown()
    return sorted(run.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def test_findings_are_the_table_s_numbers_and_the_analysis_tables(tmp_path: Path) -> None:
    run = make_run(tmp_path, "method=lora", made=Made(intruders=7))
    cells, found = row(run), findings(row(run))
    assert found.summary[f"{PREFIX}intruders"] == 7 == cells["intruders"]
    # which a run has only where it was resumed, and where its base was quantised
    known = [name for name in FROM_TABLE if name not in ("mixed", "intruders_floor")]
    assert {name: found.summary[PREFIX + name] for name in known} == {name: cells[name] for name in known}
    assert f"{PREFIX}mixed" not in found.summary
    assert set(found.tables) == {f"{PREFIX}{name}" for name in ("counts", "matrices", "spectra")}
    assert len(found.tables[f"{PREFIX}matrices"]) == 6
    assert found.tables[f"{PREFIX}spectra"]["index"].max() < SINGULAR_VALUES
    json.dumps(found.summary)


def test_a_run_resumed_under_other_versions_says_so_in_the_summary(tmp_path: Path) -> None:
    run = make_run(tmp_path, "method=lora", mixed=["torch 2.12.0 → 2.13.0"])
    assert findings(row(run)).summary == {f"{PREFIX}mixed": "torch 2.12.0 → 2.13.0"}


def test_a_run_without_analysis_has_nothing_to_add(tmp_path: Path) -> None:
    run = make_run(tmp_path, "method=lora")
    assert not findings(row(run))
    assert not (run / NOTE).exists()


def shown(method: str, rank: int, rate: float, seed: int) -> Made:
    """Make lora the better one, by far."""
    return Made(accuracy=0.95 if method == "lora" else 0.4, validation=0.9 if rate == 1e-3 else 0.5)


@pytest.mark.slow
def test_verdicts_are_of_the_chosen_rate_and_name_the_run(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora", "full", "bitfit"), rates=(1e-3, 1e-2), seeds=(0,), made=shown)
    table = read_runs(tmp_path).table
    found = verdicts(table)
    assert set(found) == set(table.loc[table["learning_rate"] == 1e-3, "id"])
    scored = {run: rows[rows["outcome"] == "score"] for run, rows in found.items()}
    lines = {table.set_index("id").loc[run, "method"]: summary(rows) for run, rows in scored.items()}
    worse = "behind 1, undecided against 1 (pairs of method and rate)"
    assert lines == {"lora": "ahead of 2 (pairs of method and rate)", "full": worse, "bitfit": worse}
    searched = {summary(rows.assign(searched=True)) for rows in scored.values()}
    assert searched == {"better than 2", "worse than 1, undecided against 1"}
    every = {line for rows in scored.values() for line in rows["verdict"]}
    assert every == {one.verdict for one in compare(effects_of(table)).found}


def test_verdicts_never_speak_of_foreign_rows(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=(0,), made=shown)
    import_results(write_result(tmp_path / "results", meta_info__dataset_info={"trec": {}}), tmp_path)
    found = verdicts(read_runs(tmp_path).table)
    assert len(found) == 2
    assert not any("PEFT" in line for rows in found.values() for line in rows["verdict"])


@pytest.mark.slow
def test_verdicts_are_sent(tmp_path: Path) -> None:
    make_run(tmp_path, "method=full", made=shown("full", 0, 1e-3, 0))
    run = tracked(tmp_path, made=shown("lora", 0, 1e-3, 0))
    add(Settings((str(tmp_path),)))
    sent = read_file(offline(run)[-1]).summary
    assert sent[VERDICT] == "ahead of 1 (pairs of method and rate)" and sent[VERDICTS]["nrows"] == 2
    assert sent[FORGOTTEN] == "undecided against 1 (pairs of method and rate)"  # both forgot .1


@pytest.mark.slow
def test_an_offline_run_gets_its_findings_under_its_own_id(tmp_path: Path) -> None:
    run = tracked(tmp_path)
    assert add(Settings((str(tmp_path),))) == []
    first, second = (read_file(path) for path in offline(run))
    assert first.run.run_id == second.run.run_id == run.name
    assert second.run.project == first.run.project == "peft-harness"
    assert second.summary[f"{PREFIX}intruders"] == 7
    assert second.history == [] and second.exit_code == 0
    table = second.summary[f"{PREFIX}matrices"]
    assert (table["_type"], table["nrows"]) == ("table-file", 6)
    (file,) = run.glob(f"wandb/offline-run-*/files/{table['path']}")
    sent = pd.DataFrame(**{k: v for k, v in json.loads(file.read_text()).items() if k in ("columns", "data")})
    assert sent["change_effective_rank"].tolist() == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]


@pytest.mark.slow
def test_a_second_call_adds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tracked(tmp_path)
    for _ in range(2):
        assert add(Settings((str(tmp_path),))) == []
    assert len(offline(run)) == 2
    assert capsys.readouterr().out.splitlines()[1] == f"{run.name}: already there"


def test_other_findings_are_added_again(tmp_path: Path) -> None:
    run = tracked(tmp_path)
    for value in (1, 2):
        assert send(record(run), run, Findings({"analysis/x": value})) is not None
    assert read_file(offline(run)[-1]).summary["analysis/x"] == 2


def synced(server: Server, run: Path) -> dict[str, Any]:
    """Upload both parts as the README says and return the summary."""
    command = [sys.executable, "-m", "wandb", "sync", *(str(file.parent) for file in offline(run))]
    subprocess.run(command, check=True, capture_output=True, cwd=run, timeout=60)
    return json.loads(server.files["wandb-summary.json"])  # type: ignore[no-any-return]


@pytest.mark.slow
def test_sync_joins_both_parts(server: Server, tmp_path: Path) -> None:
    run = tracked(tmp_path)
    assert add(Settings((str(tmp_path),))) == []
    summary = synced(server, run)
    assert [line["loss"] for line in server.stream["wandb-history.jsonl"] if "loss" in line] == [1.0, 0.5, 1 / 3]
    assert summary["analysis/intruders"] == 7
    assert summary["scores/after/test/accuracy/value"] == 0.8
    assert (summary["loss"], summary["samples"]["nrows"]) == (1.0, len(samples(run)))
    assert server.configs[run.name]["method"]["value"]["name"] == "lora"


@pytest.mark.slow
def test_findings_join_a_run_that_was_synced_before(server: Server, tmp_path: Path) -> None:
    run = tracked(tmp_path)
    before = synced(server, run)
    assert add(Settings((str(tmp_path),))) == []
    after = synced(server, run)
    assert {name for name in before if not name.startswith("_")} <= set(after)
    assert after["analysis/intruders"] == 7 and len(server.stream["wandb-history.jsonl"]) == 3


@pytest.mark.slow
def test_an_online_run_is_resumed(server: Server, tmp_path: Path) -> None:
    run = tracked(tmp_path, "online")
    assert record(run)["tracker"].startswith(server.url)
    assert add(Settings((str(tmp_path),))) == []
    summary = json.loads(server.files["wandb-summary.json"])
    assert summary["analysis/intruders"] == 7 and summary["scores/after/test/accuracy/value"] == 0.8
    assert len([line for line in server.stream["wandb-history.jsonl"] if "loss" in line]) == 3
    assert json.loads((run / NOTE).read_text())["to"].startswith(server.url)


def test_an_online_run_needs_a_login(tmp_path: Path) -> None:
    run = make_run(tmp_path, "method=lora", made=Made(intruders=1), tracker="https://wandb.ai/me/p/runs/abc")
    (line,) = add(Settings((str(tmp_path),)))
    assert "wandb login" in line and "\n" not in line
    assert not (run / NOTE).exists()


@pytest.mark.slow
def test_a_run_that_was_not_tracked_is_one_line_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, "method=full", made=Made(intruders=1))
    run = tracked(tmp_path)
    (line,) = add(Settings((str(tmp_path),)))
    assert "not tracked" in line and len(offline(run)) == 2
    assert capsys.readouterr().err == f"wandb: {line}\n"


def test_what_wandb_raises_costs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tracked(tmp_path)
    monkeypatch.setattr("analysis.exchange.wandb.sending.tracked_id", lambda *_: "no/such:id#")
    with pytest.raises(AnalysisError, match="W&B did not take the findings") as caught:
        send(record(run), run, Findings({"x": 1}))
    assert "\n" not in str(caught.value) and not (run / NOTE).exists()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("https://wandb.ai/team/project/runs/lora-r4", ("online", "team", "project")),
        ("http://host:8080/base/team/project/runs/x", ("online", "team", "project")),
        ("/data/runs/lora-r4/wandb/offline-run-1-x", ("offline", "me", "mine")),
    ],
)
def test_places(where: str, expected: tuple[str, str, str]) -> None:
    found = place({"id": "x", "tracker": where, "config": {"tracker": {"entity": "me", "project": "mine"}}})
    assert (found.mode, found.entity, found.project) == expected


def test_a_run_that_another_tracker_has_is_said() -> None:
    with pytest.raises(AnalysisError, match="x: was tracked in trackio, so W&B has no run to add to"):
        place({"id": "x", "tracker": "~/trackio/p.db", "config": {"tracker": {"name": "trackio"}}})


@pytest.mark.slow
def test_nothing_is_written_outside_the_run(tmp_path: Path) -> None:
    run = tracked(tmp_path / "runs")
    assert add(Settings((str(run),))) == []
    wandb_tracking.wandb_library().teardown()
    outside = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.suffix != ".log"]
    assert outside == []


def test_an_empty_folder_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    ended = call(COMMAND.main, tmp_path)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1 and "no record.json" in ended.stderr
