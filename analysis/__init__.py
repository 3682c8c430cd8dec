"""From run records to conclusions: spectra, intruder dimensions. Imports harness, never the other way round."""
