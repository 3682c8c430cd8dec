"""From run records to conclusions: spectra, intruder dimensions, statistics. Imports harness, never the other way round."""
