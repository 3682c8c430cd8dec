"""What a method can do, found by doing it on a tiny model: train on 4 bits, merge, be swapped, be written as LoRA.

A capability is there where the deed succeeds and the logits afterwards are those before it. No method is known here by
its name: each is asked through the same functions that training and exporting call.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, is_dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from analysis.views.advise.tiny import FourBit, Kind, for_method, in_4_bits, inputs, logits, perturb, scratch
from harness.errors import ConfigError, HarnessError, NotApplicable, first_line
from harness.methods.base import Method, trainable

WIDTHS = (64, 256)
"""The tiny models' widths: some of PEFT's defaults, such as blocks of 256, fit the wider one alone."""
RANK = 4
"""A method's rank is tried at most this large: what it can do does not hang on it."""
TOLERANCE = 1e-3
"""Of the largest logit: how far a deed may move the logits; sums in another order move them by 1e-6."""
CHANGE = 0.1
"""Of the largest logit: how far a tuned model's logits are from the base's at least, a hundred times `TOLERANCE`."""
STEPS = 40
"""Times that noise is added at most until the logits have changed so far."""
FAILURES = (
    *(HarnessError, NotApplicable, RuntimeError, ValueError, TypeError),
    *(AttributeError, KeyError, IndexError, AssertionError, OSError),
)
"""How a library says that it cannot do a thing, in errors of no type of their own."""


class Tried(NamedTuple):
    """Whether something was done."""

    fine: bool | None
    """None where it could not be tried."""
    why: str = ""


@dataclass(frozen=True)
class Capabilities:
    """What one method can do on one kind of model."""

    applies: Tried
    """It fits the model at all."""
    trains: Tried
    """Everything that it trains gets a gradient, and a step changes the logits."""
    trains_on_4_bit: Tried
    """The same on a base in NF4."""
    mergeable: Tried
    """What was trained can be folded into a plain model of the base's architecture, in the base's full precision."""
    merges_in_4_bit: Tried
    """The same into a base that stays in 4 bits, with the logits unchanged."""
    swappable: Tried
    """Two of them can be loaded on one base, and switched between."""
    exports_as_lora: Tried
    """It is a LoRA adapter, or ``save_as_lora`` writes it as one that gives the same logits."""
    needs_biases: Tried
    """It applies to a decoder whose layers have biases, and not to one without."""


NAMES = tuple(Capabilities.__dataclass_fields__)
Make = Callable[[FourBit], tuple[Any, nn.Module]]


class MovedError(RuntimeError):
    """A deed after which the logits are not those before it."""


def capabilities(method: Method, kind: Kind) -> Capabilities:
    """Return what a method can do, each deed on fresh models; nothing is trained for longer than a step."""
    method = small(method)
    with warnings.catch_warnings(), redirect_stderr(StringIO()):  # a tuner's own progress bar
        warnings.simplefilter("ignore")  # what PEFT says of merging into 4 bits and of its own defaults
        width, applies = _fitting(method, kind)
        if not applies.fine:
            unknown = Tried(None, applies.why)
            others = dict.fromkeys(NAMES[1:-1], unknown)
            return Capabilities(applies, **others, needs_biases=_needs_biases(method, kind))
        trial = _Trial(method, kind, width)
        deeds = {name: tried(getattr(trial, name)) for name in NAMES[1:-1]}
        return Capabilities(applies, **deeds, needs_biases=_needs_biases(method, kind))


def small(method: Method) -> Method:
    """Return the method at a rank that fits a tiny model."""
    rank = getattr(method, "rank", None)
    if not (is_dataclass(method) and isinstance(rank, int)):
        return method
    return cast("Method", replace(cast("Any", method), rank=min(rank, RANK)))


def tried(deed: Callable[[], str]) -> Tried:
    """Return whether a deed succeeds, with what it says, or why it fails in a line."""
    try:
        return Tried(True, deed())
    except ConfigError as error:
        return Tried(False, first_line(RuntimeError(error.allowed)))
    except FAILURES as error:
        return Tried(False, first_line(error))


def attach(method: Method, kind: Kind, width: int, four_bit: FourBit = FourBit.own) -> nn.Module:
    """Attach a method to a fresh tiny model as a run does; raise :class:`NotApplicable` where it does not fit."""
    method.preflight()
    backbone = for_method(method, kind, width, four_bit)
    reason = method.unsuitable(backbone)
    if reason is not None:
        raise NotApplicable(reason)
    torch.manual_seed(0)
    return method.attach(backbone)


def _fitting(method: Method, kind: Kind) -> tuple[int, Tried]:
    """Return the least width at which the method fits; unknown where only its options keep it from being tried."""
    problem = Tried(None)
    for width in WIDTHS:
        try:
            with torch.no_grad():
                attach(method, kind, width).eval()(**inputs())
            return width, Tried(True)
        except NotApplicable as error:
            return width, Tried(False, first_line(error))
        except FAILURES as error:
            said = first_line(error)
            # an option that is missing is no verdict of the method
            problem = Tried(None if isinstance(error, ConfigError) else False, said)
    return WIDTHS[-1], problem


def _needs_biases(method: Method, kind: Kind) -> Tried:
    """Return whether the method fits the decoder with biases and not that without; not asked of encoders."""
    if kind is Kind.encoder:
        return _needs_biases(method, Kind.decoder)
    without, biased = (_fitting(method, one)[1] for one in (Kind.decoder, Kind.biased))
    if without.fine is None and biased.fine is None:
        return Tried(None, without.why)
    return Tried(bool(biased.fine) and not without.fine, without.why if biased.fine else "")


@dataclass(frozen=True)
class _Trial:
    """The deeds; each returns what is to be said of it, and raises where it fails."""

    method: Method
    kind: Kind
    width: int

    def trains(self) -> str:
        _step(self._attached())
        return ""

    def trains_on_4_bit(self) -> str:
        model = self._attached(FourBit.always)
        if not in_4_bits(model):
            raise MovedError("the base is not in 4 bits any more")
        _step(model)
        return ""

    def mergeable(self) -> str:
        merged = self._merged(FourBit.own)
        quantised = self.method.quantization() is not None
        return "as full-precision weights" if quantised and not in_4_bits(merged) else ""

    def merges_in_4_bit(self) -> str:
        if not in_4_bits(self._merged(FourBit.always)):
            raise MovedError("the merged model is in full precision")
        return ""

    def swappable(self) -> str:
        from peft import PeftModel

        with scratch() as folder:
            wanted = {name: self._exported(folder / name, seed) for seed, name in enumerate(("first", "second"), 1)}
            base = for_method(self.method, self.kind, self.width).model
            both = PeftModel.from_pretrained(base, str(folder / "first"), adapter_name="first")
            both.load_adapter(str(folder / "second"), adapter_name="second")
            for name in ("second", "first", "second"):
                both.set_adapter(name)
                _require_same(both, wanted[name])
        return ""

    def exports_as_lora(self) -> str:
        from peft import PeftModel, PeftType
        from peft.tuners.lora.conversion import save_as_lora

        with scratch() as folder:
            model = self._perturbed()
            wanted = logits(model)
            self.method.export_adapter(model, folder / "own")
            said, where = "it is LoRA", folder / "own"
            if _peft_type(where) != PeftType.LORA.value:
                said, where = "at full rank by save_as_lora", folder / "converted"
                save_as_lora(where, model, rank=self.width)
            base = for_method(self.method, self.kind, self.width).model
            _require_same(PeftModel.from_pretrained(base, str(where)), wanted)
        return said

    def _attached(self, four_bit: FourBit = FourBit.own) -> nn.Module:
        return attach(self.method, self.kind, self.width, four_bit)

    def _perturbed(self, seed: int = 1, four_bit: FourBit = FourBit.own) -> nn.Module:
        """Return a model that is changed as by training, by so much that losing the change would show."""
        model = self._attached(four_bit)
        before = logits(model)
        for _ in range(STEPS):
            perturb(model, seed)  # each time by the same noise, on top of what is there: it grows
            if float((logits(model) - before).abs().max()) >= CHANGE * float(before.abs().max()):
                return model
        raise MovedError("what it trains hardly changes the tiny model's logits")

    def _merged(self, four_bit: FourBit) -> nn.Module:
        model = self._perturbed(four_bit=four_bit)
        wanted = logits(model)
        merged = self.method.merge(model)
        plain = type(for_method(self.method, self.kind, self.width, FourBit.never).model)
        if type(merged) is not plain:
            raise MovedError(f"merging gives a {type(merged).__name__}")
        _require_same(merged, wanted)
        return merged

    def _exported(self, folder: Path, seed: int) -> torch.Tensor:
        model = self._perturbed(seed)
        found = logits(model)
        self.method.export_adapter(model, folder)
        return found


def _step(model: nn.Module) -> None:
    """Train one step; raise where a tensor gets no gradient, none moves, or the logits stay."""
    before, trained = logits(model), trainable(model)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    model.train()(**inputs()).logits.float().square().mean().backward()
    for name, tensor in trained.items():
        if tensor.grad is None:
            raise MovedError(f"{name} gets no gradient")
    optimizer.step()
    after = logits(model)
    if not torch.isfinite(after).all() or torch.equal(after, before):
        raise MovedError("a step changes no logit" if torch.isfinite(after).all() else "a step gives no numbers")


def _require_same(model: nn.Module, wanted: torch.Tensor) -> None:
    difference = float((logits(model) - wanted).abs().max() / wanted.abs().max())
    if not difference <= TOLERANCE:  # NaN is refused too
        raise MovedError(f"the logits move by {difference:.1e} of the largest, at most {TOLERANCE:.0e} is rounding")


def _peft_type(folder: Path) -> str:
    return str(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["peft_type"])
