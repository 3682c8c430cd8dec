"""What a figure must say of itself, and the registry of all figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.drawing.page import Page
from analysis.drawing.style import Look
from harness.registry import Registry

FIGURES: Registry[Figure] = Registry("figure")
COLUMN, PAGE = 3.3, 6.9
"""Inches: one column of a two-column paper, and both."""


@dataclass(frozen=True)
class Figure(ABC):
    """A picture of the runs of one model on one task.

    A subclass registered with ``@FIGURES.register("name")`` in a file of ``analysis/figures/`` is drawn with the
    rest. Whatever it shows is in the frame that `data` returns, which is written beside the picture and tested;
    `draw` computes nothing.
    """

    name: ClassVar[str] = "figure"
    title: ClassVar[str]
    needs: ClassVar[str]
    """What a reader must run where there is nothing to show, after "skipped: "."""
    intervals: ClassVar[str] = ""
    """What the bars and bands are, besides the interval over seeds that the page's note names."""

    chosen: ClassVar[bool] = True
    """Whether each method and rank is shown at the learning rate that validation chose, and at no other."""

    @abstractmethod
    def data(self, page: Page) -> pd.DataFrame:
        """Return what is shown of a page's runs; an empty frame where none has anything of it.

        The column ``ids`` names the runs behind each row, separated by spaces.
        """

    @abstractmethod
    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw the data on an empty canvas."""

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return width and height in inches."""
        return COLUMN, 3.4
