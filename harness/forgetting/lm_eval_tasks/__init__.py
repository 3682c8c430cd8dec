"""Task files for lm-eval over embedded data; also for its own command: ``lm_eval run --include_path <this folder>``."""
