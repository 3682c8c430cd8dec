"""``python -m analysis.serving``: what a finished run costs to serve, as adapter and merged, beside its base."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.command import Command, require, require_runs
from harness.storage.privacy import expanded

USAGE = """\
Measure what finished runs of decoders cost to serve: latency, throughput, memory and files; base, adapter and merged.

  python -m analysis.serving runs/                        each run beside its base, in turns in one process
  python -m analysis.serving runs/ turns=21 batch=8       more turns, batches of eight requests
  python -m analysis.serving <folder> prompt_tokens=512   one run, longer prompts

  turns          measurements of each form, after one that does not count (default: 9)
  prompt_tokens  tokens of each request (default: 64)
  new_tokens     tokens that each request is answered with (default: 32)
  batch          requests at once (default: 1)
  margin         differences of latency smaller than this share are called none (default: 0.05)
  out            folder for the rows as CSV, Parquet, Markdown and LaTeX (default: serving)
"""


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    runs: tuple[str, ...] = ()
    turns: int = 9
    prompt_tokens: int = 64
    new_tokens: int = 32
    batch: int = 1
    margin: float = 0.05
    out: str = "serving"

    def __post_init__(self) -> None:
        require_runs(self.runs)
        # Of fewer values no two bound the median with 95 % confidence: 2 · 0.5^5 is .0625, 2 · 0.5^6 is .031.
        require(self.turns >= 6, "turns", self.turns, "must be at least 6, for an interval of 95 %")
        require(
            self.new_tokens >= 2, "new_tokens", self.new_tokens, "must be at least 2, for a time between two tokens"
        )
        for key in ("prompt_tokens", "batch"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        require(0 < self.margin < 1, "margin", self.margin, "must be above 0 and below 1")
        out = expanded(self.out)
        require(not out.exists() or out.is_dir(), "out", self.out, "is a file; give a folder")


def work(settings: Settings) -> bool:
    """Measure, print and write the rows; False where a run could not be measured."""
    from analysis.views.serving.command import serve

    return serve(settings)


COMMAND = Command("serving", USAGE, Settings, work, "nothing was written")

if __name__ == "__main__":
    COMMAND.main()
