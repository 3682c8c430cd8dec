"""Every figure from made runs: its data, its files, and a line where there is nothing to show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import Made, make_sweep

from analysis.drawing.command import draw_all, figures
from analysis.drawing.figure import Figure
from analysis.drawing.page import FORMATS, pages
from analysis.drawing.settings import Settings, parse
from analysis.errors import AnalysisError
from analysis.records import read_runs
from harness.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")

    def made(method: str, rank: int, rate: float, seed: int) -> Made:
        return Made(
            accuracy=0.5 + 0.02 * seed + 0.01 * rank,
            intruders=rank + 10 * seed,
            seconds=10.0 + rank,
            forgetting=0.1 * rank,
        )

    make_sweep(folder, ("lora", "full"), (2, 8), (1e-3, 3e-3), (0, 1), made, ("train.eval_steps=2",))
    return folder


def test_each_file_registers_one_figure_of_its_name() -> None:
    names = {path.stem for path in (ROOT / "analysis" / "figures").glob("*.py") if not path.stem.startswith("__")}
    assert {figure.name for figure in figures()} == names
    assert len(names) == 20


@pytest.mark.parametrize("figure", figures(), ids=lambda figure: figure.name)
def test_titles_and_needs_are_said(figure: Figure) -> None:
    assert figure.title and figure.__doc__
    assert "python -m " in figure.needs


def test_draws_all_that_there_are_data_for(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_all(Settings((str(sweep),), str(tmp_path), formats=("png",)))
    lines = capsys.readouterr().out.splitlines()
    skipped = {line.split(":")[0].strip() for line in lines if "skipped" in line}
    assert skipped == {"intruders_step", "lambda_curves", "sequence_grid"}
    assert all("needs" in line and "python -m " in line for line in lines if "skipped" in line)
    drawn = {path.name.split("-")[0] for path in tmp_path.glob("*.png")}
    assert drawn == {figure.name for figure in figures()} - skipped
    assert {path.stem for path in tmp_path.glob("*.csv")} == {path.stem for path in tmp_path.glob("*.png")}


def test_same_runs_give_same_bytes(sweep: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        draw_all(Settings((str(sweep),), str(tmp_path / folder), ("pareto",)))
    files = sorted((tmp_path / "one").iterdir())
    assert {path.suffix for path in files} == {f".{kind}" for kind in (*FORMATS, "csv")}
    for path in files:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_one_page_for_each_model_and_task(sweep: Path) -> None:
    table = read_runs(sweep).table
    table.loc[:3, "task"] = "other"
    assert [(page.task, len(page.table)) for page in pages(table)] == [("other", 4), ("trec", len(table) - 4)]


def test_all_runs_failed_is_one_line(tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", ("lora",), seeds=(0,), made=lambda *_: Made(status="failed", reason="out of memory"))
    with pytest.raises(AnalysisError, match=r"no run ended well \(1 failed\)"):
        draw_all(Settings((str(tmp_path / "runs"),), str(tmp_path / "out")))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "runs=: give run folders"),
        (["nowhere"], "runs=nowhere: there is no such folder"),
        ([".", "formats=gif"], "formats=gif: no such format"),
        ([".", "--only"], "only=: needs a value"),
        ([".", "olny=pareto"], "olny=pareto: no such option; did you mean only?"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(arguments)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_an_unknown_figure_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="figure=paretto: no such figure; did you mean pareto"):
        figures(("paretto",))


def test_the_command_answers_a_mistake_without_loading_matplotlib() -> None:
    heavy = ("matplotlib", "pandas", "torch")
    code = f"import sys, analysis.drawing.settings; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
