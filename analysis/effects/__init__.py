"""Effects: outcomes over items and seeds → estimates, families of differences, verdicts. Numbers in, numbers out."""
