"""A missing browser is a failure under CI and a skip elsewhere; what CI installs is installed or CI fails."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from browser_page import required

ROOT = Path(__file__).resolve().parents[3]
ENDINGS = (pytest.skip.Exception, pytest.fail.Exception)


@pytest.mark.parametrize(
    ("environment", "ending"),
    [({}, pytest.skip), ({"CI": ""}, pytest.skip), ({"CI": "false"}, pytest.skip)]
    + [({"CI": said}, pytest.fail) for said in ("true", "1", "yes")],
)
def test_a_missing_browser_fails_under_ci_alone(environment: dict[str, str], ending: object) -> None:
    with pytest.raises(ENDINGS) as ended:
        required(None, environment)
    assert ended.type is ending.Exception
    assert "apt-get install chromium" in str(ended.value)


def test_a_browser_that_is_there_is_used() -> None:
    assert required("/usr/bin/chromium", {"CI": "true"}) == "/usr/bin/chromium"


def programs(folder: Path, **ends: int) -> Path:
    """Return a folder of programs that print their name and what CI is, and end with these codes."""
    folder.mkdir()
    for name, code in ends.items():
        path = folder / name.replace("_", "-")
        path.write_text(f'#!/bin/sh\necho "{path.name} $1 CI=$CI" >&2\n[ "$1" = -u ] && echo 0\nexit {code}\n')
        path.chmod(0o755)
    for name in ("bash", "dirname", "env"):
        (folder / name).symlink_to(f"/usr/bin/{name}")
    return folder


def ci(path: Path) -> subprocess.CompletedProcess[str]:
    """Run what CI runs, with these programs alone."""
    words = ["/usr/bin/bash", str(ROOT / ".ci" / "run")]
    kept = {key: value for key, value in os.environ.items() if key != "CI"}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=kept | {"PATH": str(path)})


def test_ci_fails_where_the_browser_cannot_be_installed(tmp_path: Path) -> None:
    found = ci(programs(tmp_path / "bin", apt_get=100, id=0, make=0))
    assert found.returncode == 100
    assert "make test" not in found.stderr


def test_ci_installs_the_browser_and_runs_the_tests_as_ci(tmp_path: Path) -> None:
    found = ci(programs(tmp_path / "bin", apt_get=0, id=0, make=0))
    assert found.returncode == 0, found.stderr
    assert [line.rpartition(" ")[0] for line in found.stderr.splitlines()] == [
        *("id -u", "apt-get update", "apt-get install", "make test", "make test-cluster")
    ]
    assert found.stderr.endswith("make test-cluster CI=true\n")
