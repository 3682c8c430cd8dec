"""One run: what is prepared, the phases it goes through, and how a finished one is brought back."""
