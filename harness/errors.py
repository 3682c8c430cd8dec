"""The errors a user can cause, each one line: the key, the value, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Something the user can mend; the command line prints its one line and exits with code 1."""


class ConfigError(HarnessError):
    """A setting that cannot be used: ``key=value: what is allowed``."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key}={value}: {allowed}")
        self.key, self.value, self.allowed = key, value, allowed

    def __reduce__(self) -> tuple[type, tuple[str, object, str]]:
        """Survive pickling between the processes of a parallel launcher."""
        return type(self), (self.key, self.value, self.allowed)


class DataError(ConfigError):
    """Data that cannot be trained on: a missing column, a malformed line, an empty split."""


class AssetError(HarnessError):
    """A model or data file that cannot be had: a failed download, a wrong hash, no disk space."""


class RecordError(HarnessError):
    """A run record that cannot be trusted: damaged, half-written, or of a newer schema."""


class NotApplicable(Exception):  # noqa: N818  # a result, not an error
    """A method that cannot apply to this model; a result with a reason, not a failure."""


class TrainingError(Exception):
    """Training that must not go on: a tensor that gets no gradient, or that diverged."""


class DivergedError(TrainingError):
    """Training that its learning rate has broken: a loss or a weight that is not finite, a loss that has risen."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Say ``did you mean x? (a, b, x)`` where something is spelt nearly like `word`, else just the list."""
    names = sorted(allowed)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    listed = f"({', '.join(names)})"
    return f"did you mean {close[0]}? {listed}" if close else f"allowed: {listed}"
