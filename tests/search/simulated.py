"""Sweeps whose runs are simulated: records as a run leaves them, with scores that a function of the rate decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from harness import sweep
from harness.compose import conf_folder, register, to_run_config
from harness.config import Purpose, RunConfig
from harness.identity import learning_rate, resolved, run_id
from harness.search.sweep import path_of
from harness.storage.record import SCHEMA_VERSION, RunFolder
from harness.tasks.base import Outcome

Curve = Callable[[RunConfig], float | str]
"""The share of items that a configuration gets right, or a status with its reason: ``failed: …``."""
ITEMS = 400
PRESETS = ("search", "model", "task", "method", "tracker", "forgetting")


@cache
def _composed(job: tuple[str, ...]) -> DictConfig:
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return hydra_compose("config", overrides=list(job))


def compose(job: Sequence[str]) -> DictConfig:
    """Compose a job: its presets by Hydra, which takes half a second, once; then each value as Hydra reads it."""
    presets = [said for said in job if said.partition("=")[0] in PRESETS or said.startswith("+")]
    made = _composed(tuple(presets)).copy()
    for said in job:
        key, _, value = said.partition("=")
        if said not in presets:
            OmegaConf.update(made, key, yaml.safe_load(value))
    return made


class Killed(BaseException):
    """The process died."""


@dataclass
class Cluster:
    """A launcher that simulates its jobs, and dies before the run of a number."""

    curve: Curve
    items: int = ITEMS
    dies_before: int | None = None
    others: bool = False
    """Whether another process holds the first run of each round, and has trained it once it is waited for."""
    trained: list[RunConfig] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    """Jobs of each launch."""

    def launch(self, jobs: list[list[str]]) -> list[JobReturn]:
        self.rounds.append(len(jobs))
        configs = [to_run_config(compose(job)) for job in jobs]
        held = configs[:1] if self.others and not configs[0].sweep.wait else []
        return [*map(self._held, held), *map(self._ended, configs[len(held) :])]

    def _held(self, config: RunConfig) -> JobReturn:
        simulate(config, self.curve(config), self.items)  # by the other process
        return JobReturn(status=JobStatus.COMPLETED, _return_value=None)

    def _ended(self, config: RunConfig) -> JobReturn:
        if self.dies_before == len(self.trained):
            raise Killed
        if not config.sweep.wait:
            self.trained.append(config)
            simulate(config, self.curve(config), self.items)
        return JobReturn(status=JobStatus.COMPLETED, _return_value="done")

    @property
    def ids(self) -> list[str]:
        return [run_id(config) for config in self.trained]

    def searched(self) -> list[RunConfig]:
        return [config for config in self.trained if config.purpose is Purpose.search]

    def reported(self) -> list[RunConfig]:
        return [config for config in self.trained if config.purpose is Purpose.result]

    def sweep(self, *jobs: Sequence[str]) -> int:
        """Run a sweep of these jobs; return its exit code."""
        try:
            sweep.run_sweep(jobs, compose, self.launch)
        except SystemExit as end:
            return int(end.code or 0)
        return 0


def simulate(config: RunConfig, result: float | str, items: int) -> None:
    """Leave what a run leaves."""
    folder = RunFolder(config.output_dir, run_id(config))
    folder.path.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "id": folder.id,
        "status": "done",
        "reason": None,
        "purpose": config.purpose.value,
        "search": path_of(config),
        "metric": config.task.metric,
        "config": resolved(config),
        "seconds": {"train": 30.0, "evaluate": 3.0},
    }
    if isinstance(result, str):
        status, _, reason = result.partition(": ")
        diverged = {"diverged": True} if status == "diverged" else {}
        folder.write(record | {"status": "failed" if diverged else status, "reason": reason} | diverged)
        return
    after = answers(result, items)
    folder.write_items({"before": {"validation": answers(0.0, items)}, "after": {"validation": after}})
    scores = {"value": result, "low": result - 0.02, "high": result + 0.02, "n": items}
    folder.write(record | {"scores": {"after": {"validation": {config.task.metric: scores}}}})


def answers(share: float, items: int) -> list[Outcome]:
    """Return outcomes of which this share is right, the first ones."""
    right = round(share * items)
    return [
        Outcome(f"{number:04}", "HUM" if number < right else "LOC", "HUM", float(number < right))
        for number in range(items)
    ]


def bell(optimum: float) -> Curve:
    """Return a curve with its best score at a learning rate."""
    return lambda config: 0.2 + 0.6 * float(np.exp(-((np.log10(learning_rate(config) / optimum) / 0.6) ** 2) / 2))
