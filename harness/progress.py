"""What is seen while a run runs: bars on a terminal, a line a run elsewhere."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

console = Console(stderr=True, highlight=False)


class _Voice:
    """Whether this process may say anything, where several work on one run."""

    speaks: bool | None = None
    """None where a run has one process."""


def mute(muted: bool) -> None:
    """Say that of several processes which work on one run this one is silent, or is the one that speaks."""
    _Voice.speaks = not muted


class _Terminal:
    """Whether this process has the terminal for itself."""

    own: bool = True


def share_terminal() -> None:
    """Say that other runs write to this terminal too: lines can be told apart there, bars cannot."""
    _Terminal.own = False


def interactive() -> bool:
    """Return whether bars can be drawn: on a terminal, in the process that owns it."""
    owner = multiprocessing.parent_process() is None if _Voice.speaks is None else _Voice.speaks
    return _Terminal.own and sys.stderr.isatty() and owner


def say(text: str) -> None:
    """Print one line to the error stream, where it does not mix with the result table."""
    if _Voice.speaks is not False:
        console.print(text, markup=False, soft_wrap=True)


class Bar:
    """One bar: how far, what the loss is, how fast, how long still."""

    def __init__(self, progress: Progress | None, task: int) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on by `steps` and show `note`; nothing happens off a terminal."""
        if self._progress is not None:
            self._progress.update(self._task, advance=steps, note=note)  # type: ignore[arg-type]

    def start_at(self, steps: int) -> None:
        """Begin part-way, as a resumed run does."""
        self.advance(steps)


class Remaining(TimeRemainingColumn):
    """The time that is left by the steps so far; before there are any, by an estimate where there is one."""

    def render(self, task: Task) -> Text:
        """Return the time as text."""
        about = task.fields.get("about")
        if task.time_remaining is not None or about is None:
            return super().render(task)
        minutes, seconds = divmod(round(about), 60)
        return Text(f"about {minutes:02d}:{seconds:02d}", style="progress.remaining")


@contextmanager
def bar(label: str, total: int, about: float | None = None) -> Iterator[Bar]:
    """Show a bar while the block runs; silent off a terminal. `about`: seconds that it is expected to take."""
    if not interactive():
        yield Bar(None, 0)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        Remaining(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress, progress.add_task(label, total=total, note="", about=about))
