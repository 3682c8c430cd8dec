"""A registry that refuses duplicates, suggests near names, and gives Hydra a config group where users choose."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Generic, TypeVar

from hydra.core.config_store import ConfigStore

from harness.errors import ConfigError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes by name; registering a dataclass also makes it a choice of the Hydra group `group`.

    Nobody chooses among what is not `choosable`, such as objectives, which follow from the task.
    """

    def __init__(self, group: str, choosable: bool = True) -> None:
        self.group, self.choosable = group, choosable
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Register the decorated class under `name`, which can be taken once."""

        def add(cls: type[T]) -> type[T]:
            if name in self._classes:
                raise ValueError(f"{self.group} {name!r} is registered twice: {self._classes[name]} and {cls}")
            self._classes[name] = cls
            cls.name = name  # type: ignore[attr-defined]
            if self.choosable:
                ConfigStore.instance().store(group=self.group, name=name, node=cls, provider="harness")
            return cls

        return add

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._classes:
            raise ConfigError(self.group, name, f"no such {self.group}; {nearest(name, self._classes)}")
        return self._classes[name]

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        return sorted(self._classes)

    def discover(self, package: ModuleType) -> None:
        """Import every module of `package`, so that each registers what it defines."""
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
