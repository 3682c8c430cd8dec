"""What the analysis found, added to each run in W&B: numbers in its summary, tables, verdicts."""
