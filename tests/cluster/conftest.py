"""A real SLURM of one node, which ``.ci/slurm`` installs and starts; where it cannot, these tests skip themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small_runs

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / ".ci" / "slurm"


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """Start SLURM's daemons; where CI is set their absence is a failure."""
    can = os.name == "posix" and os.geteuid() == 0 and (shutil.which("slurmctld") or shutil.which("apt-get"))
    if not can and not os.environ.get("CI"):
        pytest.skip("needs root on Debian to start SLURM's daemons")
    started = subprocess.run([SCRIPT, "start"], capture_output=True, text=True, check=False, timeout=300)
    if started.returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"SLURM does not start: {started.stderr[-2000:]}")
    with pytest.MonkeyPatch.context() as patch:
        for variable in started.stdout.split()[1:]:
            patch.setenv(*variable.split("=", 1))
        yield
        subprocess.run(["scancel", "--user", "root"], check=False)
        subprocess.run([SCRIPT, "stop"], check=False)


@pytest.fixture
def sweep(slurm: None, data_folder: Path, llama_folder: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts a sweep of tiny runs over SLURM."""
    task = small_runs.task("classification", data_folder)
    given = ["model=custom", f"model.path={llama_folder}", *task, f"output_dir={tmp_path / 'runs'}"]
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=20", "hydra.launcher.signal_delay_s=30"]

    def start(*more: str) -> subprocess.Popen[str]:
        keys = {override.partition("=")[0] for override in more}
        kept = [override for override in [*launcher, *given] if override.partition("=")[0] not in keys]
        return small_runs.start_process("-m", *kept, *more)

    return start
