"""Other people's numbers: result files of PEFT's ``method_comparison``, read beside one's own runs, and written."""

from analysis.exchange.peft_suite.reading import row, rows
from analysis.exchange.peft_suite.schema import FILE

__all__ = ["FILE", "row", "rows"]
