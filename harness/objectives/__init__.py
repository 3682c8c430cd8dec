"""How a model does a kind of task: what it is trained on, and how its answers are read off."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from harness.objectives.base import Objective
from harness.objectives.generation import Generation
from harness.objectives.head import ChoiceHead, Head
from harness.objectives.likelihood import Likelihood
from harness.objectives.next_token import NextToken
from harness.tasks.base import Task

OBJECTIVES: dict[str, type[Objective[Any]]] = {
    "likelihood": Likelihood,
    "generation": Generation,
    "next_token": NextToken,
    "head": Head,
    "choice_head": ChoiceHead,
}


def build(task: Task, kind: str, tokenizer: PreTrainedTokenizerBase) -> Objective[Any]:
    """Return the objective by which a model of this kind does the task."""
    return OBJECTIVES[task.objective(kind)](task, tokenizer)
