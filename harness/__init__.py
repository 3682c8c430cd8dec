"""Compare fine-tuning methods on language models: one run, from configuration to record."""

import logging

__version__ = "0.1.0"

# bitsandbytes says at its import that a faster 4-bit kernel for CPUs could be had from the hub: no error, no news.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
