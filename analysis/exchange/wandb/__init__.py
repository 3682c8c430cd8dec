"""A W&B workspace and report of a project's runs, built with ``wandb-workspaces``."""
