"""Run folders → tidy tables: the only reader of run folders in the analysis."""

from analysis.records.columns import ROW
from analysis.records.files import history, intruder_headline, intruder_tables, items, record, samples
from analysis.records.runs import Runs, read_runs

__all__ = ["ROW", "Runs", "history", "intruder_headline", "intruder_tables", "items", "read_runs", "record", "samples"]
