"""One stage's training, with what is measured on its way."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from harness.config import Purpose
from harness.distributed import group
from harness.execution.context import Run, Stage
from harness.execution.evaluate import Questions
from harness.forgetting.events import Events
from harness.forgetting.measure import Probing
from harness.training.train import Trained, train
from harness.training.trainer import Job
from harness.training.watch import Hooks


def learn(run: Run, stage: Stage, model: nn.Module, head: Sequence[str]) -> Trained:
    """Train, with history, tracker and, where asked, evaluations and probes along the way."""
    probing = run.probing if stage.last else run.probing.without_head()
    earlier = sum(done.steps for done in run.trained)
    hooks = Hooks(
        log=lambda metrics, step: run.tracker.log(metrics, earlier + step),
        evaluate=DuringTraining(run, stage, model, probing).evaluate,
        every=(run.config.train.eval_steps, run.config.forgetting.every),
        may_end_early=run.config.purpose is Purpose.search,
    )
    prepared = stage.prepared
    job = Job(stage.config, model, head, prepared.objective, prepared.features, stage.folder, run.meter, run.runtime)
    return train(job, hooks, run.label())


class DuringTraining:
    """What is measured while a stage trains."""

    def __init__(self, run: Run, stage: Stage, model: nn.Module, probing: Probing) -> None:
        self.run, self.stage, self.model, self.probing = run, stage, model, probing
        self.asked: Questions = followed(stage)
        self.events = Events(stage.folder.path)

    def evaluate(self, step: int) -> dict[str, float]:
        """Return the validation scores and, where they are due, the probes' numbers after a step."""
        prepared = self.stage.prepared
        with self.run.meter.section("evaluate_during_training"):
            outcomes = self.run.evaluator.answer(self.model, prepared.objective, self.asked, "evaluate")
        if self.run.config.forgetting.active and group.first():
            self.events.add(step, outcomes)
        scored = prepared.task.scores(outcomes["validation"])
        found = {f"validation/{name}": score.value for name, score in scored.items()}
        every = self.run.config.forgetting.every
        if not every or step % every:
            return found
        with self.run.meter.section("forgetting_during_training"):
            return found | self.probing.history(self.probing.measure(self.model))


def followed(stage: Stage) -> Questions:
    """Return what is answered along the way: the validation split, and for forgetting events some training items."""
    prepared, forgetting = stage.prepared, stage.config.forgetting
    if not (stage.config.train.eval_steps or forgetting.every):
        return {}
    asked = {"validation": prepared.questions["validation"]}
    items = prepared.splits.train[: forgetting.train_items] if forgetting.active else []
    return asked | ({"train": prepared.objective.questions(items)} if items else {})
