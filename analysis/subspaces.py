"""``python -m analysis.subspaces``: how alike the weight changes of two runs are."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.command import Command, require
from harness.errors import NotApplicable
from harness.storage.privacy import expanded

USAGE = """\
Compare the weight changes of two runs of one base: subspace similarity and principal angles.

  python -m analysis.subspaces runs/<id> runs/<id>

  n        singular vectors of each change (default: 8)
  modules  parts of names of the matrices to compare, separated by commas (default: all linear layers of blocks)
  out      folder for the tables (default: analysis/ in the first run's folder)
  jobs     processes to share the matrices among (default: one a core, of 50 each at least)
"""


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    runs: tuple[str, ...] = ()
    n: int = 8
    modules: tuple[str, ...] = ()
    out: str | None = None
    jobs: int | None = None

    def __post_init__(self) -> None:
        require(len(self.runs) == 2, "runs", " ".join(self.runs), "give two run folders; --help shows all")
        for run in self.runs:
            there = (expanded(run) / "record.json").is_file()
            require(there, "run", run, "holds no run: there is no record.json in it")
        require(self.n >= 1, "n", self.n, "must be at least 1")
        require(self.jobs is None or self.jobs >= 1, "jobs", self.jobs, "must be at least 1")


def work(settings: Settings) -> bool:
    """Compare two runs, or say why one has nothing to compare."""
    from analysis.spectra.subspaces import run

    try:
        run(settings)
    except NotApplicable as reason:
        print(reason)
    return True


COMMAND = Command("subspaces", USAGE, Settings, work, "tables that were complete stay")

if __name__ == "__main__":
    COMMAND.main()
