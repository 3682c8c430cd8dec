"""What fine-tuning changed: weights, spectra, intruder dimensions (arXiv 2410.21228) and what scaling them does."""
