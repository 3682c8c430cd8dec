"""One self-contained page of a folder of runs."""
