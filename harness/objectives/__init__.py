"""How a model does a kind of task: what it is trained on, and how its answers are read off; one file an objective."""

from __future__ import annotations

import sys
from typing import Any

from transformers import PreTrainedTokenizerBase

from harness.errors import ConfigError
from harness.objectives.base import OBJECTIVES, Objective
from harness.tasks.base import Task

OBJECTIVES.discover(sys.modules[__name__])


def build(task: Task, kind: str, tokenizer: PreTrainedTokenizerBase) -> Objective[Any]:
    """Return the objective by which a model of this kind, encoder or decoder, does the task.

    Raises :class:`ConfigError` where there is no such objective, or it asks for more than the task says.
    """
    objective = OBJECTIVES[task.objective(kind)]
    if not isinstance(task, objective.contract):
        needed = f"its objective {objective.name} needs a subclass of {objective.contract.__name__}"
        raise ConfigError("task", task.name, needed)
    return objective(task, tokenizer)
