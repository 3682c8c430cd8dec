"""Exporting from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from exported_runs import close_enough, logits, open_adapter

from harness import export
from harness.errors import ConfigError, HarnessError, RecordError
from harness.export import Request, parse
from harness.storage.files import write_json

pytestmark = pytest.mark.usefixtures("quick")


def test_runs_are_found_by_id_beginning_and_path(tmp_path: Path) -> None:
    for name in ("lora-r8-aaaa", "lora-r8-aabb", "lora-r8", "full-cccc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text("{}")
    (tmp_path / "no-record").mkdir()
    runs = str(tmp_path)
    assert export.find_run("full", runs).name == "full-cccc"
    assert export.find_run("lora-r8", runs).name == "lora-r8"  # an id wins over a beginning
    assert export.find_run("lora-r8-aab", runs).name == "lora-r8-aabb"
    assert export.find_run(str(tmp_path / "full-cccc"), "nowhere") == tmp_path / "full-cccc"
    with pytest.raises(ConfigError, match=r"run=lora-r8-a: begins 2 runs: lora-r8-aaaa, lora-r8-aabb"):
        export.find_run("lora-r8-a", runs)
    with pytest.raises(ConfigError, match=r"run=ful-cccc: no such run in .*did you mean full-cccc"):
        export.find_run("ful-cccc", runs)
    with pytest.raises(ConfigError, match=r"no such run in .*; runs are full-cccc, lora-r8, "):
        export.find_run("zzz", runs)
    with pytest.raises(ConfigError, match="it holds none"):
        export.find_run("x", str(tmp_path / "no-record"))
    with pytest.raises(ConfigError, match="output_dir=nowhere: there is no such folder"):
        export.find_run("x", "nowhere")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "run=: must be given"),
        (["run=a"], "to=: must be given"),
        (["run=a", "to=b", "merged=true"], "merged=true: no such option; did you mean merge"),
        (["run=a", "to=b", "merge=yes"], "merge=yes: must be true or false"),
        (["run=a", "to="], "to=: needs a value"),
        (["run", "to=b"], "run=: needs a value"),
        (["run=a", "run=c", "to=b"], "run=c: given twice, first as a"),
    ],
)
def test_arguments_are_checked(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(given)


def test_arguments_are_read() -> None:
    assert parse(["run=a=b", "to=c", "merge=True", "overwrite=false"]) == Request("a=b", "c", merge=True)


def command(*given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "harness.export", *given], capture_output=True, text=True, check=False)


def test_command_line_exports(trained: Any, tmp_path: Path) -> None:
    run = trained("encoder", "adapter")
    done = call(export.cli, f"run={run.id[:-2]}", f"to={tmp_path / 'to'}", f"output_dir={run.folder.parent}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"wrote {tmp_path / 'to'}"
    assert close_enough(run, logits(open_adapter(run, tmp_path / "to")))


def test_command_line_refuses_in_one_line(tmp_path: Path) -> None:
    done = command("run=nothing", f"to={tmp_path / 'to'}", f"output_dir={tmp_path}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"export: run=nothing: no such run in {tmp_path}; it holds none\n"
    assert "merge" in command("--help").stdout


def test_a_run_of_a_search_is_refused(tmp_path: Path) -> None:
    record = {"schema_version": 1, "id": "lora-x", "status": "done", "purpose": "search", "config": {}}
    write_json(tmp_path / "lora-x" / "record.json", record)
    with pytest.raises(ConfigError, match="run=lora: a run of a learning-rate search keeps no weights"):
        export.export(Request("lora", str(tmp_path / "to"), output_dir=str(tmp_path)))
    assert not (tmp_path / "to").exists()


def test_nothing_heavy_is_imported_before_the_arguments_are_valid() -> None:
    modules = "harness.export, harness.execution.reload"
    code = f"import sys, {modules}; print({{'torch', 'transformers', 'peft'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_interruption_is_not_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: Request) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "export", interrupted)
    monkeypatch.setattr(sys, "argv", ["harness export", "run=a", "to=b"])
    with pytest.raises(SystemExit) as ended:
        export.cli()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "export: interrupted; nothing was written\n"


def test_errors_are_the_users() -> None:
    assert issubclass(RecordError, HarnessError)
