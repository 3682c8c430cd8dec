"""The command line of ``python -m analysis.interventions``: checked before torch is imported."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.command import Command, require, require_choice
from analysis.intruders import ALGORITHMS, WITHDRAWN

USAGE = """\
Scale the intruder dimensions of a finished run, and see what becomes of its task and of what it forgot.

  python -m analysis.interventions run=<id or folder>    the causal test: the top intruder of each matrix; beside it a
                                                         neighbouring vector that is none, and three controls that
                                                         remove as much: of ΔW as a whole (shrunk), along a random
                                                         direction in its span (span), along its own singular
                                                         direction of the intruder's index (own)
  python -m analysis.interventions run=<id> mode=mitigation
                                                         all intruders among the top k, cut back to the rank, as PEFT;
                                                         beside it the whole ΔW shrunk (WiSE-FT), the kept checkpoints
                                                         (early stopping) and runs of a lower rate beside this one: what
                                                         each leaves forgotten where it has cost the task as much

W(λ) = W0 + ΔW + (λ - 1) u σ vᵀ, so λ = 1 changes nothing and λ = 0 takes the vector out. What is computed already is
not computed again; the same command goes on where it was cut off.

  run          a run's id, the beginning of one, or a run's folder
  output_dir   where runs are (default: runs)
  mode         top or mitigation (default: top)
  lambdas      numbers separated by commas (default: 0,.1,.25,.3,.5,.7,.75,.9,1,1.5,2, the paper's two grids)
  k            how many of the largest singular vectors of each tuned matrix are looked at (default: 10)
  eps          an intruder's largest |cos| with every base vector is below this (default: 0.5)
  reference    w0, or dequantised: what intruders of a run over a quantised base are told by (default: w0)
  algorithm    eigen or svd (default: eigen)
  modules      parts of names of the matrices to scale, separated by commas (default: all linear layers of blocks)
  split        of the run's task: test or validation (default: test)
  probes       false: leave what the run forgot out (default: true)
  costs        how far the task's score may fall in mode=mitigation (default: .01,.02,.05)
  cut          false: do not cut back to the rank in mode=mitigation (default: true)
  seed         of the random direction (default: 0)
"""
MODES = ("top", "mitigation")
STOPPED, LOWER = OTHER_MODELS = ("stopped", "lower_rate")
"""Curves of other models than the tuned one scaled: its kept checkpoints, and runs at a lower rate."""
SPLITS = ("test", "validation")
REFERENCES = ("w0", "dequantised")
GRIDS = (0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.75, 0.9, 1.0, 1.5, 2.0)
"""{0, .25, .5, .75, 1, 1.5, 2} and {.1, .3, .5, .7, .9} of arXiv 2410.21228."""


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    run: str = ""
    words: tuple[str, ...] = ()
    output_dir: str = "runs"
    mode: str = "top"
    lambdas: tuple[float, ...] = GRIDS
    k: int = 10
    eps: float = 0.5
    reference: str = "w0"
    algorithm: str = "eigen"
    modules: tuple[str, ...] = ()
    split: str = "test"
    probes: bool = True
    cut: bool = True
    seed: int = 0
    costs: tuple[float, ...] = (0.01, 0.02, 0.05)

    def __post_init__(self) -> None:
        require(not self.words, "run", " ".join(self.words), "write run=<id or folder>")
        require(bool(self.run), "run", "", "must be given: run=<id or folder>; --help shows all options")
        require(self.k >= 1, "k", self.k, "must be at least 1")
        require(0 < self.eps < 1, "eps", self.eps, "must be above 0 and below 1")
        require(self.algorithm != "certified", "algorithm", "certified", WITHDRAWN)
        require(bool(self.lambdas), "lambdas", "", "needs at least one number")
        require(all(map(math.isfinite, self.lambdas)), "lambdas", self.lambdas, "must be numbers")
        require(bool(self.costs), "costs", "", "needs at least one number")
        require(min(self.costs) >= 0, "costs", min(self.costs), "must be 0 or more")
        for key, allowed in (
            ("mode", MODES),
            ("split", SPLITS),
            ("reference", REFERENCES),
            ("algorithm", ALGORITHMS),
        ):
            require_choice(key, getattr(self, key), allowed)

    @property
    def scales(self) -> tuple[float, ...]:
        """Return each λ once, in rising order, λ = 1 left out: it changes nothing and is always measured."""
        return tuple(sorted({value for value in self.lambdas if value != 1}))


def work(settings: Settings) -> bool:
    """Intervene, or say why there is nothing to scale."""
    from analysis.spectra.interventions.command import intervene

    reason = intervene(settings)
    if reason is not None:
        print(reason)
    return True


COMMAND = Command("interventions", USAGE, Settings, work, "the same command goes on where it was", rest="words")

if __name__ == "__main__":
    COMMAND.main()
