"""Every figure from made runs: its data, its files, and a line where there is nothing to show."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import vl_convert
from made_runs import Made, make_run, make_sweep

import harness.methods
from analysis.errors import AnalysisError
from analysis.figures import COMMAND, FORMATS, Settings
from analysis.records import read_runs
from analysis.views.drawing.command import draw_all, figures
from analysis.views.drawing.figure import Figure
from analysis.views.drawing.page import Page, pages
from analysis.views.drawing.picture import VERSION, heading, numbered
from analysis.views.report.page import library
from harness.errors import ConfigError
from harness.methods.base import METHODS

ROOT = Path(__file__).resolve().parents[3]
FIGURES = ROOT / "analysis" / "views" / "figures"


def test_each_file_registers_one_figure_of_its_name() -> None:
    names = {path.stem for path in FIGURES.glob("*.py") if not path.stem.startswith("__")}
    assert {figure.name for figure in figures()} == names
    assert len(names) == 24


def test_no_figure_knows_a_method_or_task_by_name() -> None:
    METHODS.discover(harness.methods)
    for path in [
        *FIGURES.glob("*.py"),
        *(FIGURES.parent / "drawing").glob("*.py"),
    ]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert strings & set(METHODS.names()) == set(), path


@pytest.mark.parametrize("figure", figures(), ids=lambda figure: figure.name)
def test_titles_and_needs_are_said(figure: Figure) -> None:
    assert figure.title and figure.__doc__
    assert "python -m " in figure.needs


@pytest.mark.slow
def test_draws_all_that_there_are_data_for(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_all(Settings((str(sweep),), str(tmp_path), formats=("png",)))
    lines = capsys.readouterr().out.splitlines()
    skipped = {line.split(":")[0].strip() for line in lines if "skipped" in line}
    assert skipped == {"intruders_step", "lambda_curves", "mitigations", "sequence_grid"}
    assert all("needs" in line and "python -m " in line for line in lines if "skipped" in line)
    drawn = {path.name.split("-")[0] for path in tmp_path.glob("*.png")}
    assert drawn == {figure.name for figure in figures() if not figure.several} - skipped
    for kind in ("csv", "json"):
        assert {path.stem for path in tmp_path.glob(f"*.{kind}")} == {path.stem for path in tmp_path.glob("*.png")}


@pytest.mark.slow
def test_same_runs_give_same_bytes(sweep: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        draw_all(Settings((str(sweep),), str(tmp_path / folder), only=("pareto",)))
    files = sorted((tmp_path / "one").iterdir())
    assert {path.suffix for path in files} == {f".{kind}" for kind in (*FORMATS, "csv", "json")}
    for path in files:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_altair_the_converter_and_the_page_speak_one_version_of_vega_lite() -> None:
    import altair

    assert altair.SCHEMA_VERSION.startswith(f"v{VERSION}.")
    assert VERSION in vl_convert.get_vegalite_versions()
    assert f'"{altair.SCHEMA_VERSION.removeprefix("v")}"' in library()


def test_one_page_for_each_model_and_task(sweep: Path) -> None:
    table = read_runs(sweep).table
    table.loc[:3, "task"] = "other"
    assert [(page.task, len(page.table)) for page in pages(table)] == [("other", 4), ("trec", len(table) - 4)]


def test_another_version_of_the_data_is_another_page(sweep: Path) -> None:
    table = read_runs(sweep).table
    table.loc[:3, "data_hash"] = "f" * 64
    assert sorted(page.task for page in pages(table)) == ["trec data 00000000", "trec data ffffffff"]


def test_all_runs_failed_is_one_line(tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", ("lora",), seeds=(0,), made=lambda *_: Made(status="failed", reason="out of memory"))
    with pytest.raises(AnalysisError, match=r"no run has finished \(1 failed\)"):
        draw_all(Settings((str(tmp_path / "runs"),), str(tmp_path / "out")))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "runs=: give run folders"),
        (["nowhere"], "runs=nowhere: there is no such folder"),
        ([".", "formats=gif"], "formats=gif: no such format"),
        ([".", "size=poster"], "size=poster: must be column or page"),
        ([".", "--only"], "--only=: write only=<value>"),
        ([".", "where=lora"], "where=lora: must be column=value"),
        ([".", "olny=pareto"], "olny=pareto: no such option; did you mean only?"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        COMMAND.parse(arguments)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_an_unknown_figure_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="figure=paretto: no such figure; did you mean pareto"):
        figures(("paretto",))


def test_the_command_answers_a_mistake_without_loading_altair() -> None:
    heavy = ("altair", "pandas", "torch")
    code = f"import sys, analysis.figures; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


NAME = '한국어 <b>"감정"</b> $x_1$'


@pytest.fixture
def renamed(tmp_path: Path) -> Path:
    """Return a run of one seed whose task has a name of every difficult kind, and a folder that is no run any more."""
    folder = make_run(tmp_path / "runs", "method=lora", "rank=2", "train.eval_steps=2", made=Made(intruders=3))
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    record["config"]["task"]["dataset"] = NAME
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    damaged = tmp_path / "runs" / "damaged"
    damaged.mkdir()
    (damaged / "record.json").write_text("{", encoding="utf-8")
    (folder / "analysis" / "matrices.parquet").write_bytes(b"no parquet")
    return tmp_path / "runs"


@pytest.mark.slow
def test_one_seed_odd_names_and_damaged_files_leave_the_rest(
    renamed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = ("score_parameters", "intruders_rank", "effective_rank")
    assert len(draw_all(Settings((str(renamed),), str(tmp_path / "out"), only=only))) == 10
    said = capsys.readouterr().out
    assert "damaged" in said and "effective_rank: skipped" in said and NAME in said
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "score_parameters-bert_tiny-한국어_b_감정_b_x_1.png" in names
    data = pd.read_csv(next((tmp_path / "out").glob("score*.csv")))
    assert data["seeds"].tolist() == [1] and data["interval"].tolist() == ["items"]


def test_the_heading_says_task_model_seeds_runs_and_what_the_bars_are(renamed: Path, page: Page) -> None:
    (figure,) = figures(("score_parameters",))
    said = heading(figure, page, figure.data(page))
    assert said[:5] == ["bert_tiny", "trec", "2 seeds", "6 runs", "learning rates chosen by validation"]
    assert said[5] == "intervals: 95 % of the mean over seeds"
    (odd,) = pages(read_runs(renamed).table)
    assert {NAME, "1 seed", "1 run"} <= set(heading(figure, odd, figure.data(odd)))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["column", "page"])
def test_a_figure_is_as_wide_as_asked_and_its_specification_draws_it_again(
    sweep: Path, tmp_path: Path, size: str
) -> None:
    only = ("score_parameters", "cost", "learning_tokens", "intruders_rank", "training_curves")
    draw_all(Settings((str(sweep),), str(tmp_path), only=only, formats=("svg",), size=size))
    for path in tmp_path.glob("*.json"):
        svg = path.with_suffix(".svg").read_text(encoding="utf-8")
        assert float(re.search(r'width="([0-9.]+)', svg)[1]) == pytest.approx({"column": 238, "page": 497}[size], abs=6)
        spec = json.loads(path.read_text(encoding="utf-8"))
        assert numbered(vl_convert.vegalite_to_svg(spec, vl_version=VERSION)) == svg


def test_a_filter_leaves_the_colours_and_says_what_there_is(sweep: Path, tmp_path: Path) -> None:
    only = Settings((str(sweep),), str(tmp_path), ("method=lora", "rank=8"), ("score_parameters",), ("png",))
    assert len(draw_all(only)) == 3
    assert pd.read_csv(next(tmp_path.glob("*.csv")))["method"].tolist() == ["lora"]
    with pytest.raises(AnalysisError, match="where=method=prefix: no run has it; there are full, lora"):
        draw_all(replace(only, where=("method=prefix",)))
