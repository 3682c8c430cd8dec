"""What an analysis cannot go on with: one line, as everywhere in the project."""

from __future__ import annotations

from harness.errors import HarnessError


class AnalysisError(HarnessError):
    """Runs from which no answer can be had: none readable, of different tasks, without items."""
