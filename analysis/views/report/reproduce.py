"""The command that trains a recorded run again, from its record alone, checked before it is shown.

A record holds the resolved configuration and not the words of the command line, so the command is found: presets by
the names that the record carries, then an override for each leaf that they leave different. It is then read back with
Hydra's own parser, and the run's id that it gives is compared with the record's.
"""

from __future__ import annotations

import json
import shlex
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import TracebackType
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from analysis.records.columns import flat
from analysis.views.report.overrides import differences, written
from harness.compose import HydraException, conf_folder, register, to_run_config
from harness.config import RunConfig
from harness.errors import HarnessError
from harness.identity import identity, plain, run_id

FAILURES = (HarnessError, HydraException, OmegaConfBaseException, OSError, KeyError, TypeError, ValueError)
ELSEWHERE = "reproduced"
"""The output folder of the command: in the run's own, it would be found done and not trained."""
SEED = "seed="
IGNORED = ("sweep", "output_dir", "dry_run", "cache_dir", "tracker", "rank", "sequence_tasks", "search")
DESCRIPTIVE = ("licence", "citation", "source", "note")
OWN_MODEL = ("path", "id", "revision", "dtype", "kind")
"""What is said of a model that is no preset; the rest is the preset's that it displaces."""
RATES = (("method", "learning_rate"), ("train", "learning_rate_factor"))
"""Both are within train.learning_rate, where a record keeps the rate that trained."""


@dataclass(frozen=True)
class Reproduction:
    """How to train a run again."""

    command: str
    problem: str | None = None
    """Why the command is not known to give this run; None where it gives the same id."""


@dataclass
class Reproducer:
    """Finds commands; composes each choice of presets once, for it takes Hydra a third of a second."""

    composed: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)
    _overrides: dict[str, list[str]] = field(default_factory=dict)
    _configs: dict[tuple[str, ...], RunConfig] = field(default_factory=dict)
    """Both by all but the seed: records that differ in that alone are composed once."""
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Reproducer:
        register()
        self._stack.enter_context(initialize_config_dir(str(conf_folder()), version_base="1.3"))
        self._parser = OverridesParser.create()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, tb)

    def __call__(self, record: dict[str, Any]) -> Reproduction:
        """Return the command for a record; its `problem` where its id is another, or nothing composes."""
        line = ""
        try:
            overrides = self._but_for_the_seed(record)
            line = command(overrides)
            found = self.configure(overrides)
            if run_id(found) == record["id"]:
                return Reproduction(line)
            return Reproduction(line, f"this command trains {run_id(found)}: {_changed(found, record)}")
        except FAILURES as error:
            return Reproduction(
                line, f"it does not compose here: {' '.join(str(error).split()) or type(error).__name__}"
            )

    def _but_for_the_seed(self, record: dict[str, Any]) -> list[str]:
        """Return the overrides of a record, found once for all that differ in their seed alone."""
        config = record["config"] | {"seed": None, "output_dir": None}
        key = json.dumps([config, record.get("rank")], sort_keys=True)
        if key not in self._overrides:
            self._overrides[key] = self.overrides(record)
        seed = f"{SEED}{record['config']['seed']}"
        return [seed if word.startswith(SEED) else word for word in self._overrides[key]]

    def overrides(self, record: dict[str, Any]) -> list[str]:
        """Return the overrides that lead from the presets to the record's configuration, presets first."""
        choices = _choices(record) + self._probes(record)
        base = _container(self._applied(choices))
        wanted, given = _to_state(record["config"], base), _to_state(base, base)
        if record["config"].get("sequence"):  # its task is the last of the sequence's, which come from their presets
            wanted["task"] = given["task"]
        return choices + list(differences(wanted, given))

    def configure(self, overrides: list[str]) -> RunConfig:
        """Return the configuration of a command line, checked."""
        key = tuple(word for word in overrides if not word.startswith(SEED))
        if key not in self._configs:
            self._configs[key] = to_run_config(self._applied(overrides))
        (seed,) = (int(word.removeprefix(SEED)) for word in overrides if word.startswith(SEED))
        return replace(self._configs[key], seed=seed)

    def _applied(self, overrides: list[str]) -> DictConfig:
        """Return what a command line composes to: presets by Hydra, the rest by its parser."""
        parsed = list(zip(overrides, self._parser.parse_overrides(overrides), strict=True))
        config = deepcopy(self._compose(tuple(text for text, override in parsed if _is_preset(override))))
        for _, override in parsed:
            if not _is_preset(override):
                _apply(config, override)
        return config

    def _compose(self, groups: tuple[str, ...]) -> DictConfig:
        if groups not in self.composed:
            config = hydra_compose("config", overrides=list(groups))
            OmegaConf.set_struct(config, False)
            self.composed[groups] = config
        return self.composed[groups]

    def _probes(self, record: dict[str, Any]) -> list[str]:
        """Return the preset of probes that leaves the least to override."""
        wanted = record["config"].get("forgetting") or {}
        if not wanted.get("probes"):
            return ["forgetting=none"]
        presets, wanted_alone = self._forgetting_presets, _nameless(wanted)
        best = min(presets, key=lambda name: len(list(differences(wanted_alone, _nameless(presets[name])))))
        added = {label: entry for label, entry in wanted["probes"].items() if label not in presets[best]["probes"]}
        more = [f"+probe@forgetting.probes.{label}={entry.get('name', label)}" for label, entry in added.items()]
        return [] if best == "default" and not more else [f"forgetting={best}", *more]

    @cached_property
    def _forgetting_presets(self) -> dict[str, dict[str, Any]]:
        """Return what the presets of forgetting compose to, by name in order."""
        names = sorted(path.stem for path in (conf_folder() / "forgetting").glob("*.yaml"))
        return {name: _container(self._compose((f"forgetting={name}",)))["forgetting"] for name in names}


def command(overrides: list[str]) -> str:
    """Return the command line, quoted for a POSIX shell."""
    return " ".join(["python -m harness.run", *map(_shell, overrides), f"output_dir={ELSEWHERE}"])


def _shell(word: str) -> str:
    """Quote a word; in double quotes where it holds single ones, for Hydra's quotes are single."""
    if "'" in word and not set(word) & set('"$`\\!'):
        return f'"{word}"'
    return shlex.quote(word)


def _choices(record: dict[str, Any]) -> list[str]:
    """Return the presets that the record names, its rank and its seed."""
    config = record["config"]
    task = config["task"].get("dataset")
    found = _model(config["model"])
    found += [f"task={task if _exists('task', task) else config['task']['kind']}"] if not config.get("sequence") else []
    found += [f"method={config['method']['name']}"]
    found += [] if record.get("rank") is None else [f"rank={record['rank']}"]
    return [*found, f"{SEED}{config['seed']}"]


def _model(model: dict[str, Any]) -> list[str]:
    if model.get("path"):
        return [f"model.path={written(model['path'])}"]
    if _exists("model", model["name"]):
        return [f"model={model['name']}"]
    return [f"model.id={written(model.get('id'))}", f"model.revision={written(model.get('revision'))}"]


def _exists(group: str, name: Any) -> bool:
    return isinstance(name, str) and (conf_folder() / group / f"{name}.yaml").is_file()


def _is_preset(override: Override) -> bool:
    return override.key_or_group in ("model", "task", "method", "forgetting") or override.package is not None


def _apply(config: DictConfig, override: Override) -> None:
    """Set or delete a key as Hydra would."""
    key = str(override.key_or_group)
    if override.is_delete():
        parent, _, leaf = key.rpartition(".")
        del OmegaConf.select(config, parent)[leaf]
    else:
        OmegaConf.update(config, key, override.value(), force_add=True)


def _container(config: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as plain values, with the rate that would train."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    whole = plain(OmegaConf.to_container(own, resolve=True))
    if whole["train"]["learning_rate"] is None:
        whole["train"]["learning_rate"] = whole["method"]["learning_rate"]
    return whole  # type: ignore[no-any-return]


def _to_state(config: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Return what of a configuration a command has to say; keys that an older record lacks are as in `base`."""
    kept = {key: deepcopy(config.get(key, base[key])) for key in base if key not in IGNORED}
    model = kept["model"]
    if model.get("path") or not _exists("model", model["name"]):
        kept["model"] = {key: model[key] for key in OWN_MODEL}
    for group in ("model", "task"):  # a kind of task is a choice of its own, that of a model a setting
        kept[group] = _without(kept[group], *DESCRIPTIVE, "name", *(("kind",) if group == "task" else ()))
    for group, key in RATES:
        kept[group].pop(key, None)
    kept["method"].pop("name", None)
    kept["forgetting"] = _nameless(kept["forgetting"])
    return kept


def _nameless(forgetting: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of forgetting without the names of probes, and without what describes a text."""
    probes = {label: _without(entry, "name") for label, entry in forgetting.get("probes", {}).items()}
    texts = {name: _without(text, *DESCRIPTIVE) for name, text in forgetting.get("texts", {}).items()}
    return forgetting | {"probes": probes, "texts": texts}


def _without(tree: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key not in keys}


def _changed(config: RunConfig, record: dict[str, Any]) -> str:
    """Say what differs between a configuration's identity and the one in the record."""
    now, then = plain(identity(config)), record.get("identity")
    if not isinstance(then, dict):
        return "its record does not say what it was hashed from"
    one, other = dict(flat(now)), dict(flat(then))
    names = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    if not names:
        return "this version hashes otherwise"
    return f"{', '.join(names[:3])}{' and more' if names[3:] else ''} changed since"
