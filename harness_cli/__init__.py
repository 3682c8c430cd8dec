"""The installed command ``harness``: it starts the command lines of `harness` and `analysis` by name."""
