"""The W&B workspace and report: names that are really logged, a specification that is read back, one of each kind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from made_runs import Made, make_run
from wandb_server import Server, own_session, serve

from analysis.errors import AnalysisError
from analysis.exchange.wandb.board import TITLE, report, runs, specification, workspace
from analysis.exchange.wandb.findings import FORGOTTEN, VERDICT, VERDICTS, findings
from analysis.exchange.wandb.names import Shown, all_metrics, measured, workspaces
from analysis.exchange.wandb.saving import VIEW, save
from analysis.records import history, read_runs, record
from analysis.records.columns import flat
from analysis.wandb import COMMAND
from harness.config import TrackerMode
from harness.tracking import base
from harness.tracking import wandb as wandb_tracking

pytestmark = pytest.mark.usefixtures("quick")

ROOT = Path(__file__).resolve().parents[2]
SHOWN = Shown(("accuracy",), (("lm_loss", "made/loss"),))


@pytest.fixture(autouse=True)
def _own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with own_session(tmp_path, monkeypatch):
        yield


def found(tree: Any, key: str) -> Iterator[Any]:
    """Yield every value that stands under `key` anywhere."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from found(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from found(value, key)


def named(spec: dict[str, Any]) -> dict[str, set[str]]:
    """Return the names that panels, columns, order and grouping of a specification read, by where W&B looks."""
    columns = {name for order in found(spec, "columnOrder") for name in order}
    columns |= {axis for key in ("xAxis", "yAxis") for axis in found(spec, key) if ":" in axis}
    columns |= {f"summary:{key['name']}" for key in found(spec, "key") if key.get("section") == "summary"}
    grouping = {f"config:{key['name']}" for group in found(spec, "grouping") for key in group}
    grouping |= {f"config:{name}" for name in found(spec, "groupBy")}
    return {
        "summary": {name.partition(":")[2] for name in columns if name.startswith("summary:")},
        "config": {name.partition(":")[2] for name in columns | grouping if name.startswith("config:")},
        "plotted": {name for metrics in found(spec, "metrics") for name in metrics},
        "tables": set(re.findall(r'"(analysis/[a-z]+)"', json.dumps(list(found(spec, "panel2Config"))))),
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run that has all_metrics: evaluations and probes on the way, intruders, a GPU's memory."""
    peaks = {"train": {"resident_gib": 1.0, "cuda_allocated_gib": 2.0, "cuda_reserved_gib": 2.5}}
    made = Made(intruders=5)
    return make_run(tmp_path, "method=lora", "rank=4", "train.eval_steps=2", made=made, memory=peaks)


@pytest.mark.slow
def test_every_name_is_one_that_is_really_logged(run: Path) -> None:
    spec = specification("me", "proj", SHOWN)
    row = read_runs(run).table.iloc[0]
    added = findings(row)
    summary = set(base.summarised(record(run))) | set(added.summary) | {VERDICT, FORGOTTEN}
    logged = set(history(run).columns) - {"step", "seconds"}
    wrapped = {re.sub(r"^([^.]+)", r"\1.value", key) for key, _ in flat(record(run)["config"])}
    for part in ("workspace", "report"):
        names = named(spec[part])
        assert len(names["summary"]) > 10 and len(names["plotted"]) > 10
        assert names["summary"] <= summary, names["summary"] - summary
        assert names["config"] <= wrapped, names["config"] - wrapped
        assert names["plotted"] <= summary | logged, names["plotted"] - summary - logged
    tables = set(re.findall(r"analysis/\w+", json.dumps(spec))) - set(added.summary) - {VERDICT, FORGOTTEN}
    assert tables == {"analysis/counts", "analysis/matrices", VERDICTS} and tables <= {*added.tables, VERDICTS}


def test_what_is_drawn_over_time_is_history(run: Path) -> None:
    spec = specification("me", "proj", SHOWN)["workspace"]["spec"]
    lines = [p["config"] for ps in found(spec, "panels") for p in ps if p.get("viewType") == "Run History Line Plot"]
    logged = set(history(run).columns)
    assert len(lines) == 5
    assert {name for line in lines for name in (*line["metrics"], line["xAxis"])} <= logged


def test_panels_follow_what_the_runs_measured(run: Path, tmp_path: Path) -> None:
    assert measured(read_runs(run).table) == SHOWN
    bare = make_run(tmp_path / "bare", "method=lora", made=Made(forgetting=None), metric="macro_f1")
    assert measured(read_runs(bare).table) == Shown(("macro_f1",), all_metrics().probes)
    assert ("lm_loss", "loss") in all_metrics().probes and ("retrieval", "mrr") in all_metrics().probes


def test_the_library_reads_the_workspace_back() -> None:
    views = workspaces().views
    view = workspace("me", "proj", SHOWN)._to_model()
    sent = view.spec.model_dump_json(by_alias=True, exclude_none=True)
    spec = views.WorkspaceViewspec.model_validate_json(sent)
    named_view = {"entity": "me", "project": "proj", "display_name": TITLE, "name": VIEW, "id": "1"}
    loaded = workspaces().ws.Workspace._from_model(views.View(**named_view, spec=spec))
    wanted = ["Leaderboard", "Learning and forgetting", "Curves", "Intruder dimensions", "Memory and time"]
    assert [section.name for section in loaded.sections] == wanted
    assert {type(panel).__name__ for section in loaded.sections for panel in section.panels} == {
        "BarPlot",
        "LinePlot",
        "ScatterPlot",
        "WeavePanelSummaryTable",
    }
    again = loaded._to_model().spec.model_dump(by_alias=True, exclude_none=True)
    assert again["section"]["runSets"][0]["grouping"] == json.loads(sent)["section"]["runSets"][0]["grouping"]
    assert named(again) == named(json.loads(sent))


def test_the_library_reads_the_report_back() -> None:
    wr = workspaces().wr
    page = report("me", "proj", SHOWN, runs(SHOWN))
    model = page._to_model()
    sent = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    loaded = wr.Report._from_model(type(model).model_validate(model.model_dump() | {"spec": json.dumps(sent)}))
    assert [type(block).__name__ for block in loaded.blocks] == [type(block).__name__ for block in page.blocks]
    again = json.loads(loaded._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    assert named(again) == named(sent)


def test_the_specification_needs_no_network_and_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("asked W&B")

    monkeypatch.setattr(wandb_tracking.wandb_library(), "Api", refuse)
    first, second = (json.dumps(specification("me", "proj", SHOWN)) for _ in range(2))
    assert first == second


def test_panels_of_the_report_do_not_overlap() -> None:
    page = specification("me", "proj", all_metrics())["report"]["spec"]
    for grid in (block for block in page["blocks"] if block["type"] == "panel-grid"):
        places = [p["layout"] for p in grid["metadata"]["panelBankSectionConfig"]["panels"]]
        cells = [
            (x, y)
            for at in places
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        ]
        assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


class Views(Server):
    """A W&B server that keeps views of one project."""

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.project = "proj"

    def answer(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer what saving asks."""
        self.asked.append(name)
        if name in ("UpsertView2", "upsertView"):
            return self.upsert(variables)
        if name in ("View", "ProjectViews"):
            return self.list_views(variables)
        if name == "GetDefaultEntity":
            return {"viewer": {"id": "1", "entity": "me"}}
        project = {"id": "1", "internalId": "1", "name": self.project, "entityName": "me", "createdAt": "2026"}
        project |= {"isBenchmark": False, "user": None}
        known = variables.get("projectName", self.project) == self.project
        if name == "ProjectInternalId":
            return {"project": project if known else None}
        if name == "GetProjects":
            page = {"endCursor": None, "hasNextPage": False}
            return {"models": {"edges": [{"node": project, "cursor": ""}], "pageInfo": page}}
        return super().answer(name, variables)

    def upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Keep a view, under its id or a new one; W&B never looks at its name."""
        key = variables.get("id") or f"Vm{len(self.views) + 1}=="
        inserted = key not in self.views
        self.views[key] = {"updatedAt": str(len(self.asked))} | variables | {"id": key}
        project = {"id": "1", "name": variables["projectName"], "entityName": variables["entityName"]}
        kept = {
            name: self.views[key].get(name) for name in ("id", "name", "displayName", "description", "type", "spec")
        }
        return {"upsertView": {"view": kept | {"project": project, "updatedAt": None}, "inserted": inserted}}

    def list_views(self, variables: dict[str, Any]) -> dict[str, Any]:
        """List views of a type, of one name where it is given."""
        if variables.get("projectName", variables.get("name", variables.get("project"))) != self.project:
            return {"project": None}
        wanted = variables.get("viewName")
        kept = [v for v in self.views.values() if v["type"] == variables.get("viewType", "runs")]
        kept = [v for v in kept if wanted in (None, v["name"])]
        user = {"username": "me", "photoUrl": "", "email": ""}
        nodes = [{"node": v | {"user": user, "createdAt": "2026"}, "cursor": ""} for v in kept]
        return {"project": {"allViews": {"edges": nodes, "pageInfo": {"endCursor": None, "hasNextPage": False}}}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Views]:
    """Serve views on this machine, and be logged in to it."""
    with serve(monkeypatch, Views()) as serving:
        yield serving


@pytest.mark.slow
def test_saving_twice_updates_and_duplicates_nothing(server: Views) -> None:
    first = save("me", "proj", SHOWN)
    assert [(one.what, one.new) for one in first] == [("workspace", True), ("report", True)]
    assert sorted(view["type"] for view in server.views.values()) == ["project-view", "runs"]
    before = {key: view["spec"] for key, view in server.views.items()}
    second = save("me", "proj", all_metrics())
    assert [(one.what, one.new, one.url) for one in second] == [(one.what, False, one.url) for one in first]
    assert server.views.keys() == before.keys()
    assert all(view["spec"] != before[key] for key, view in server.views.items())


def test_what_is_saved_is_the_specification(server: Views) -> None:
    save("me", "proj", SHOWN)
    spec = specification("me", "proj", SHOWN)
    by_type = {view["type"]: json.loads(view["spec"]) for view in server.views.values()}
    assert named(by_type["project-view"]) == named(spec["workspace"])
    assert named(by_type["runs"]) == named(spec["report"])
    (view,) = (view for view in server.views.values() if view["type"] == "project-view")
    assert (view["name"], view["displayName"]) == (VIEW, TITLE)
    runsets = next(found(by_type["runs"], "runSets"))
    assert runsets[0]["project"] == {"id": "1", "name": "proj", "entityName": "me"}


def test_other_people_s_views_are_left_alone(server: Views) -> None:
    others = {"entityName": "me", "projectName": "proj", "displayName": "PEFT Harness (mine)", "spec": "{}"}
    server.upsert(others | {"name": "nw-aaaaaaaaaaa-v", "type": "project-view"})
    server.upsert(others | {"name": "abc", "type": "runs"})
    save("me", "proj", SHOWN)
    assert len(server.views) == 4
    assert [view["spec"] for view in server.views.values()][:2] == ["{}", "{}"]


def test_a_project_that_is_not_there_is_one_line(server: Views) -> None:
    with pytest.raises(AnalysisError, match=r"me/nowhere: W&B did not take the dashboard: .*not found") as caught:
        save("me", "nowhere", SHOWN)
    assert "\n" not in str(caught.value) and server.views == {}


def test_without_a_login_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not wandb_tracking.logged_in() and TrackerMode.online
    with pytest.raises(AnalysisError, match=r"wandb login.*out=spec\.json"):
        save("me", "proj", SHOWN)


@pytest.mark.slow
def test_the_command_writes_a_specification(run: Path, tmp_path: Path) -> None:
    ended = call(COMMAND.main, run, "dashboard=me/proj", f"out={tmp_path / 'spec.json'}")
    assert ended.returncode == 0 and ended.stderr == "" and "nothing was sent" in ended.stdout
    assert json.loads((tmp_path / "spec.json").read_text()) == specification("me", "proj", SHOWN)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("dashboard=me/proj",), "wandb login"),
        (("dashboard=proj",), "must be entity/project"),
        (("out=x",), "runs=: give run folders"),
        (("/nowhere", "dashboard=me/proj", "out=/tmp/x"), "there is no such folder"),
        (("dashboard=me/proj", "out=/proc/nowhere/spec.json"), "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_1(arguments: tuple[str, ...], says: str) -> None:
    ended = call(COMMAND.main, *arguments)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert says in ended.stderr


def test_runs_of_a_search_are_shown_nowhere() -> None:
    """W&B has them beside the results, in a job of their own."""
    sets = [one for one in found(specification("me", "proj", SHOWN), "filters") if isinstance(one, list) and one]
    told = [{(f["key"]["name"], f["op"], f["value"]) for f in one} for one in sets]
    assert told and all(("jobType", "!=", "search") in one for one in told)
