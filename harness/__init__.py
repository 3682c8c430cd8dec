"""Compare fine-tuning methods on language models: one run, from configuration to record."""

__version__ = "0.1.0"
