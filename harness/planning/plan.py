"""A configuration's plan: what one step of it takes of a GPU, and the largest batch that fits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from itertools import count

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.config import RunConfig, TrainConfig
from harness.errors import ConfigError
from harness.methods.base import trainable
from harness.models import size
from harness.objectives import build
from harness.objectives.base import Features
from harness.planning.architecture import architecture_of
from harness.planning.cards import Card, between
from harness.planning.gpu import CONTEXT
from harness.planning.shares import of_process
from harness.planning.skeleton import Blueprint, with_method
from harness.planning.step import Peak, Rehearsal
from harness.planning.words import StandIn
from harness.runtime import Runtime, precision_of, resolve, torch_dtype
from harness.training.order import Share

LARGEST = 2**20
"""Items beyond which no batch is tried."""
LINES = 8
"""Sizes that are tried by lines before what lies between is halved."""


class Fit(Enum):
    """Whether a training fits into a card's memory."""

    yes = "yes"
    """With all that the allocator would like to reserve."""
    tight = "tight"
    """Only if the allocator gives back what it has cached, which it does before it fails; fragments may prevent it."""
    no = "no"


@dataclass(frozen=True)
class Plan:
    """What a configuration's training holds at its peak."""

    batch_size: int
    """``train.per_device_train_batch_size``: items of a forward and backward pass."""
    length: int
    """Tokens of its longest item."""
    parameters: int
    trainable: int
    bytes: dict[str, int]
    """Live bytes at the peak by what they are there for; ``paged`` beside them."""
    peak_bytes: int
    """All of them but the paged: what the allocator must hold at least."""
    reserved_bytes: int
    """What PyTorch's caching allocator asks of the driver where nothing presses: its segments are larger."""
    where: str
    """The part of the step."""
    flops: int
    """Floating-point operations of the products of an optimiser step."""
    seconds: tuple[float, float] | None
    """Between which an optimiser step over items of full length lies, by the card's data sheet, where that is known."""
    run_seconds: tuple[float, float] | None
    """The same of all ``train.max_steps``; None where epochs are counted instead, as a plan knows no data."""
    fits: Fit | None
    """Whether the card holds it together with CUDA's context; None where no card is given."""


def fit(peak: Peak, card: Card) -> Fit:
    """Return whether a card holds a peak beside CUDA's context."""
    if peak.reserved + CONTEXT <= card.memory:
        return Fit.yes
    return Fit.tight if peak.moment.total + CONTEXT <= card.memory else Fit.no


class Planner:
    """Plans one configuration at any batch size; the model is built once.

    Raises :class:`NotApplicable` where the method does not fit the model, and :class:`ConfigError` in one line where
    the configuration cannot be planned.
    """

    def __init__(self, config: RunConfig, card: Card | None = None, cuda: bool = True) -> None:
        self.card = card
        planned = planned_runtime(config, cuda)
        self.config = replace(config, method=config.method.on(planned))
        runtime, mode = replace(planned, device=torch.device("cpu")), fake_mode()
        blueprint = blueprint_of(self.config)
        objective = build(config.task, blueprint.kind, StandIn())  # type: ignore[arg-type]
        self.blueprint = blueprint = replace(blueprint, outputs=objective.outputs)
        with quiet():
            self.skeleton = with_method(self.config, blueprint, runtime, mode)
            self.rehearsal = Rehearsal(self.config, self.skeleton, objective, runtime, cuda, mode)

    def plan(self, batch_size: int | None = None) -> Plan:
        """Return the plan at a batch size, by default ``train.per_device_train_batch_size``."""
        batch_size = batch_size or self.config.train.per_device_train_batch_size
        with quiet():
            peak = self.rehearsal.peak(Share.of(self._sized(batch_size), 0, self.config.processes).rows)
            peak = of_process(peak, self.config, self.skeleton, self.blueprint)
        return self._described(batch_size, peak)

    def _sized(self, batch_size: int) -> TrainConfig:
        return replace(self.config.train, per_device_train_batch_size=batch_size)

    def step_seconds(self, item: Features) -> float:
        """Return the seconds of an optimiser step over items like `item`, on a card whose speed is known."""
        with quiet():
            peak = self.rehearsal.peak(self.config.train.per_device_train_batch_size, item)
        seconds = peak.work.seconds(self.card) if self.card is not None else None
        if seconds is None:
            raise ConfigError("gpu", self.card.name if self.card else None, "its speed is not known")
        return seconds

    def largest(self) -> Plan:
        """Return the plan of the largest batch that the card holds.

        Raises :class:`ConfigError` where not even one item fits.
        """
        if self.card is None:
            raise ConfigError("batch", "max", "needs the card's memory: gpu=24GiB or a name such as gpu=l40s")
        one = self.plan(1)
        if one.fits is not Fit.yes:
            needed = f"{(one.reserved_bytes + CONTEXT) / 2**30:.1f} GiB"
            raise ConfigError("batch", "max", f"not even one item of {one.length} tokens fits: it needs {needed}")
        return largest_that_fits(self.plan, one, self.card.memory - CONTEXT)

    def _described(self, batch_size: int, peak: Peak) -> Plan:
        base, model, steps = self.skeleton.backbone, self.skeleton.model, self.config.train.max_steps
        seconds = None if self.card is None else peak.work.seconds(self.card)
        return Plan(
            batch_size=batch_size,
            length=self.config.task.max_length,
            parameters=base.parameters,
            trainable=sum(map(size, trainable(model).values())),
            bytes=dict(peak.moment.bytes),
            peak_bytes=peak.moment.total,
            reserved_bytes=peak.reserved,
            where=peak.moment.where,
            flops=peak.work.flops,
            seconds=None if seconds is None else between(seconds),
            run_seconds=None if seconds is None or steps == -1 else between(steps * seconds),
            fits=None if self.card is None else fit(peak, self.card),
        )


def largest_that_fits(plan: Callable[[int], Plan], one: Plan, room: int) -> Plan:
    """Return the plan of the largest batch that fits, given that of one item, which does.

    Memory grows nearly in proportion to the batch, so the next size to try is where the line through the last two plans
    meets `room`, the bytes that may be reserved; what lies between is halved where that leads nowhere.
    """
    fitting, too_large, last = one, LARGEST + 1, one
    for attempt in count():
        if too_large - fitting.batch_size <= 1:
            return fitting
        size = 2 if attempt == 0 else _next_size((fitting, last), room, too_large)
        if attempt >= LINES:
            size = (fitting.batch_size + too_large) // 2
        last = plan(max(fitting.batch_size + 1, min(size, too_large - 1)))
        if last.fits is Fit.yes:
            fitting, last = last, fitting
        else:
            too_large = last.batch_size
    raise AssertionError("a search without an end")


def _next_size(plans: tuple[Plan, Plan], room: int, most: int) -> int:
    """Return the batch size at which the line through two plans reaches `room`."""
    first, second = plans
    items, taken = second.batch_size - first.batch_size, second.reserved_bytes - first.reserved_bytes
    if taken * items <= 0:
        return (first.batch_size + most) // 2
    return first.batch_size + (room - first.reserved_bytes) * items // taken


def planned_runtime(config: RunConfig, cuda: bool) -> Runtime:
    """Return the runtime that the run would have on a GPU or on the processor, whatever there is here."""
    here = resolve(replace(config, train=replace(config.train, use_cpu=True, fp16=False)))
    device = torch.device("cuda" if cuda else "cpu")
    return replace(here, device=device, precision=precision_of(config, device))


def blueprint_of(config: RunConfig) -> Blueprint:
    """Return what the skeleton is built from, but for the width of a head, which the task's objective knows."""
    architecture = architecture_of(config.model, config.cache_dir)
    dtype = torch_dtype(config.model.dtype)
    return Blueprint(architecture, config.model, 0, dtype, config.method.quantization())


def fake_mode() -> FakeTensorMode:
    """Return a mode of tensors without numbers, to which a library's own small tables may be given as they are."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what libraries say of a training that never runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
