"""From what Hydra composed to checked dataclasses, and from Hydra's errors to one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

import harness.forgetting.probes
import harness.forgetting.texts  # registers the group `text`
import harness.methods
import harness.tasks
from harness.config import (
    DType,
    ForgettingConfig,
    ModelConfig,
    ModelKind,
    RunConfig,
    SearchConfig,
    TrackerConfig,
    TrainConfig,
)
from harness.errors import ConfigError, first_line, nearest
from harness.forgetting.base import PROBES
from harness.methods.base import METHODS
from harness.tasks.base import TASKS, Task

SCHEMAS = ("trainer", "base_tracker", "settings", "slurm_settings")
"""Registered dataclasses that presets start from and nobody chooses."""


def conf_folder() -> Path:
    """Return the folder of presets: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    return here / "conf" if (here / "conf").is_dir() else here.parent / "conf"


def register() -> None:
    """Give Hydra the dataclasses, every method and every kind of task; once is enough, twice does no harm."""
    store = ConfigStore.instance()
    store.store(name="run_config", node=RunConfig, provider="harness")
    store.store(group="model", name="custom", node=ModelConfig, provider="harness")
    store.store(group="train", name="trainer", node=TrainConfig, provider="harness")
    store.store(group="tracker", name="base_tracker", node=TrackerConfig, provider="harness")
    store.store(group="search", name="settings", node=SearchConfig, provider="harness")
    store.store(group="forgetting", name="settings", node=ForgettingConfig, provider="harness")
    METHODS.discover(harness.methods)
    TASKS.discover(harness.tasks)
    PROBES.discover(harness.forgetting.probes)


def to_run_config(config: DictConfig) -> RunConfig:
    """Return the composed configuration as dataclasses, each checked by its ``__post_init__``."""
    # Jobs of a sweep still carry Hydra's own node, which has mandatory values nobody filled in.
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    forget_preset(own.model, overrides_of(config))
    values: Any = OmegaConf.to_object(own)
    made = values if isinstance(values, RunConfig) else RunConfig(**values)
    return with_sequence(made) if made.sequence else made


def overrides_of(config: DictConfig) -> list[str]:
    """Return what the command line said: a job of a sweep carries it, a single run's is Hydra's own."""
    said = OmegaConf.select(config, "hydra.overrides.task")
    if said is None and HydraConfig.initialized():
        said = HydraConfig.get().overrides.task
    return [str(override).lstrip("+") for override in said or []]


def forget_preset(model: DictConfig, overrides: list[str]) -> None:
    """Drop what a preset says of its own model, kind, dtype and architecture, where the command line names another."""
    named = {override.partition("=")[0] for override in overrides if not override.endswith(("=", "=null"))}
    if "model=custom" in overrides or not named & {"model.path", "model.id"}:
        return
    for key, default in (("kind", ModelKind.auto), ("dtype", DType.float32), ("architecture", {})):
        if f"model.{key}" not in named:
            model[key] = default


def with_sequence(config: RunConfig) -> RunConfig:
    """Return the configuration with the tasks of its sequence, each from its preset; `task` is the last of them.

    Raises :class:`ConfigError` for a name that is no preset, or a field that a task does not have.
    """
    tasks = {name: config.sequence_tasks.get(name) or _preset(name, config) for name in config.sequence}
    return replace(config, sequence_tasks=tasks, task=tasks[config.sequence[-1]])


def _preset(name: str, config: RunConfig) -> Task:
    loader = _loader()
    known = sorted(set(loader.get_group_options("task")) - set(TASKS.names()))
    if name not in known:
        raise ConfigError("sequence", name, f"no such task; {nearest(name, known)}")
    composed = loader.load_configuration("config", [f"task={name}"], RunMode.RUN, from_shell=False)
    task: Task = OmegaConf.to_object(composed.task)  # type: ignore[assignment]
    for key in config.sequence_task:
        if not hasattr(task, key):
            raise ConfigError(f"sequence_task.{key}", config.sequence_task[key], f"{name} has no such field")
    return replace(task, **config.sequence_task)


def _loader() -> Any:
    """Return Hydra's loader of this command, which knows ``--config-dir``, or one of our own presets alone."""
    if GlobalHydra.instance().is_initialized():
        return GlobalHydra.instance().config_loader()
    return ConfigLoaderImpl(create_config_search_path(str(conf_folder())))


def compose(*overrides: str) -> RunConfig:
    """Return the configuration that these command-line overrides make, for scripts and tests."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return to_run_config(hydra_compose("config", overrides=list(overrides)))


def explain(error: Exception, overrides: list[str]) -> str:
    """Return a one-line account of an error of Hydra or OmegaConf: key, value, what is allowed."""
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error, overrides)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not a valid override; write key=value, lists as [a,b], and quote values with blanks"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        return _bad_key(cause, overrides)
    return " ".join(str(error).split())


def _unknown_choice(error: MissingConfigException, overrides: list[str]) -> str:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    options = [option for option in error.options or [] if option not in SCHEMAS]
    if not group:
        return " ".join(str(error).split())
    return str(ConfigError(group, choice, f"no such {group.split('/')[-1]}; {nearest(choice, options)}"))


def _bad_key(cause: OmegaConfBaseException, overrides: list[str]) -> str:
    key = str(cause.full_key or cause.key)
    value = next((o.partition("=")[2] for o in overrides if o.partition("=")[0].lstrip("+~") == key), "?")
    if isinstance(cause, ConfigKeyError) or "not in struct" in str(cause) or "not in" in str(cause).split("\n")[0]:
        parent = cause.parent_node
        known = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
        if isinstance(parent, DictConfig) and OmegaConf.get_type(parent) is dict and parent._key():
            mapping = parent._get_full_key(None)
            return str(
                ConfigError(key, value, f"new keys of a mapping are added with ++: ++{mapping}={{…}} or ++{key}=…")
            )
        return str(ConfigError(key, value, f"no such key; {nearest(key.rsplit('.', 1)[-1], known)}"))
    if isinstance(cause, ValidationError):
        return str(ConfigError(key, value, " ".join(str(cause).split("\n")[0].split())))
    return f"{key}: {' '.join(first_line(cause).split())}"


__all__ = ["HydraException", "OmegaConfBaseException", "conf_folder", "explain", "register", "to_run_config"]
