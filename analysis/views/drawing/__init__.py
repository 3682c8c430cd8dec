"""What every figure shares: its contract, its style, its fonts, intervals over seeds, and how files are written."""
