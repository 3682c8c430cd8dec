"""The launchers ``hydra/launcher=local`` and ``submitit_slurm``; Hydra finds plugins in this namespace package.

No ``from __future__ import annotations``: Hydra loads plugins outside sys.modules, where dataclasses
cannot resolve annotations that are strings.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf


@dataclass
class LocalConf:
    """Runs side by side on this machine, each a process of its own."""

    _target_: str = "hydra_plugins.harness_launchers.LocalLauncher"
    n_jobs: Any = "auto"
    """Runs side by side: ``auto`` is one a GPU, or without GPUs one a core with a thread each."""
    gpus: Any = None
    """The GPUs to use, as ``CUDA_VISIBLE_DEVICES`` names them: ``[0,2]``; all unless given."""


@dataclass
class SlurmConf:
    """A job of SLURM for each run, by submitit; the fields that sbatch knows have its names."""

    _target_: str = "hydra_plugins.harness_launchers.SlurmLauncher"
    partition: Optional[str] = None  # noqa: UP045  # OmegaConf 2.3 reads no X | None here
    gpus_per_node: Optional[int] = None  # noqa: UP045
    timeout_min: int = 240
    """The time limit in minutes; a run that takes longer is cut at a checkpoint and queued again."""
    cpus_per_task: int = 1
    mem_gb: Optional[float] = None  # noqa: UP045
    nodes: int = 1
    tasks_per_node: int = 1
    """Processes of a run on each node, which SLURM starts; with 1 a run starts its ``processes`` itself."""
    account: Optional[str] = None  # noqa: UP045
    qos: Optional[str] = None  # noqa: UP045
    constraint: Optional[str] = None  # noqa: UP045
    exclude: Optional[str] = None  # noqa: UP045
    gres: Optional[str] = None  # noqa: UP045
    name: str = "harness"
    array_parallelism: int = 256
    """Jobs of the array at most that run at once."""
    signal_delay_s: int = 120
    """Seconds before the time limit at which SLURM says so: more than a step and a checkpoint take."""
    max_num_timeout: int = 100
    """How often a run may be queued again after its time limit."""
    setup: list[str] = field(default_factory=list)
    """Lines of shell before the run, such as ``module load cuda``."""
    additional_parameters: dict[str, Any] = field(default_factory=lambda: {"requeue": True})
    """Any other option of sbatch."""
    submitit_folder: str = "${hydra.sweep.dir}/.submitit/%j"
    """Logs of the jobs."""
    wait: bool = True
    """Wait for the jobs and print their table; without, submit them and end."""


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalConf, provider="harness")
ConfigStore.instance().store(group="hydra/launcher", name="slurm_settings", node=SlurmConf, provider="harness")


class HarnessPresets(SearchPathPlugin):
    """Forgets what submitit's own plugin stores as ``submitit_slurm``: Hydra would take it for our preset's schema."""

    def manipulate_search_path(self, search_path: Any) -> None:
        """Do it here: Hydra calls this once all plugins are known and before it composes."""
        ConfigStore.instance().repo["hydra"]["launcher"].pop("submitit_slurm.yaml", None)


class HarnessLauncher(Launcher):
    """What both launchers share: a run's process needs no Hydra, only its configuration."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Keep what composes a job's configuration."""
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and return the status of each, None in the place of one that another process held."""
        from harness.compose import to_run_config

        loader = self.context.config_loader
        composed = [self.adapted(loader.load_sweep_config(self.config, list(job))) for job in job_overrides]
        configs = list(map(to_run_config, composed))
        return [
            JobReturn(overrides=list(job), _return_value=status, status=JobStatus.COMPLETED)
            for job, status in zip(job_overrides, self.run(configs), strict=True)
        ]

    def logging(self) -> dict[str, Any]:
        """Return Hydra's settings of a job's logging."""
        found: Any = OmegaConf.to_container(self.config.hydra.job_logging, resolve=True)
        return found

    def adapted(self, composed: DictConfig) -> DictConfig:
        """Return a run's configuration with what the launcher decides of it."""
        return composed

    @abstractmethod
    def run(self, configs: list[Any]) -> Sequence[Any]:
        """Run configurations and return the status of each."""


class LocalLauncher(HarnessLauncher):
    """As many runs side by side as there are GPUs, or as the cores allow."""

    def check(self) -> None:
        """Raise where ``n_jobs`` is no number of runs."""
        from harness.launching.local import require_jobs

        require_jobs(self.settings["n_jobs"])

    def run(self, configs: list[Any]) -> Sequence[Any]:
        """Run configurations and return the status of each."""
        from harness.launching import local

        gpus = self.settings["gpus"]
        names = None if gpus is None else [str(name) for name in gpus]
        return local.launch(configs, self.settings["n_jobs"], names, self.logging())


class SlurmLauncher(HarnessLauncher):
    """A job array of SLURM, one job a run."""

    def check(self) -> None:
        """Raise where SLURM is not there, does not answer, or refuses such a job."""
        from harness.launching import cluster

        cluster.check(self.plain())

    def adapted(self, composed: DictConfig) -> DictConfig:
        """Return a run's configuration with as many processes as SLURM starts tasks."""
        from harness.launching.tasks import processes

        composed.processes = processes(self.settings, composed.processes)
        return composed

    def run(self, configs: list[Any]) -> Sequence[Any]:
        """Submit configurations, wait, and return the status of each."""
        from harness.launching import slurm

        return slurm.launch(configs, self.plain(), self.logging())

    def plain(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {
            name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for name, value in self.settings.items()
        }
