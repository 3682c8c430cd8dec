"""What a figure must say of itself, and the registry of all figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from analysis.views.drawing.page import Page
from analysis.views.drawing.style import PAGE, Look
from harness.registry import Registry

if TYPE_CHECKING:
    import altair as alt

FIGURES: Registry[Figure] = Registry("figure")


@dataclass(frozen=True)
class Figure(ABC):
    """A picture of the runs of one model on one task, for paper and for the page.

    A subclass registered with ``@FIGURES.register("name")`` in a file of ``analysis/figures/`` is drawn with the
    rest. Whatever it shows is in the frame that `data` returns, which is written beside the picture and tested;
    `chart` describes how it looks and computes nothing else.
    """

    name: ClassVar[str] = "figure"
    title: ClassVar[str]
    needs: ClassVar[str]
    """What a reader must run where there is nothing to show, after "skipped: "."""
    intervals: ClassVar[str] = ""
    """What the bars and bands are, besides the interval over seeds that the page's note names."""
    marks: ClassVar[str] = ""
    """What else is drawn, that no legend names."""
    width: ClassVar[int] = PAGE
    """Points, unless the reader asks for a column or a page."""

    several: ClassVar[bool] = False
    """Whether it is of all models and tasks of a folder together, where there are several."""

    chosen: ClassVar[bool] = True
    """Whether each method and rank is shown at the learning rate that validation chose, and at no other."""

    @abstractmethod
    def data(self, page: Page) -> pd.DataFrame:
        """Return what is shown of a page's runs; an empty frame where none has anything of it.

        The column ``ids`` names the runs behind each row, separated by spaces.
        """

    @abstractmethod
    def chart(self, data: pd.DataFrame, look: Look) -> alt.TopLevelMixin:
        """Return the chart of the data, without heading and theme; panels are as wide as they like."""
