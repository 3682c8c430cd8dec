"""The sweeper that plans before it trains; Hydra finds plugins in this namespace package.

No ``from __future__ import annotations``: Hydra loads plugins outside sys.modules, where dataclasses
cannot resolve annotations that are strings.
"""

from dataclasses import dataclass

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser


@dataclass
class HarnessSweeperConf(BasicSweeperConf):
    """The basic sweeper's settings."""

    _target_: str = "hydra_plugins.harness_sweeper.HarnessSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="harness", node=HarnessSweeperConf, provider="harness")


class HarnessSweeper(BasicSweeper):
    """A Cartesian product of the overrides, without duplicates of methods that have no rank."""

    def sweep(self, arguments: list[str]) -> None:
        """Check every run, then prepare, launch, and print the table."""
        from harness.sweep import run_sweep

        assert self.hydra_context is not None and self.config is not None and self.launcher is not None
        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(self._parse_config() + arguments)
        (jobs,) = self.split_arguments(overrides, None)
        config, launcher = self.config, self.launcher
        adapted = getattr(launcher, "adapted", lambda composed: composed)
        run_sweep(
            jobs,
            lambda job: adapted(loader.load_sweep_config(config, job)),
            lambda batch: launcher.launch(batch, initial_job_idx=0),
            getattr(launcher, "check", lambda: None),
        )
