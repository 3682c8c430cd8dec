"""Effects: outcomes over items and seeds → estimates, families of differences, verdicts; computed here alone."""
