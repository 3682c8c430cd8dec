"""The command line of ``python -m analysis.intruders``: checked before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.command import Command, require, require_choice
from harness.storage.privacy import expanded

USAGE = """\
Count intruder dimensions and measure the spectra of what fine-tuning changed.

  python -m analysis.intruders runs/                     every run of a folder
  python -m analysis.intruders runs/<id> runs/<id>       some runs
  python -m analysis.intruders base=smollm2_135m tuned=my-adapter out=tables
                                                         any two models

  base         a model folder, preset or hub id
  tuned        a model folder or PEFT adapter folder
  k            how many of the largest singular vectors of each tuned matrix are looked at (default: 10)
  eps          an intruder's largest |cos| with every base vector is below this (default: 0.5)
  algorithm    eigen: each base matrix decomposed once, bounds measured, what they leave open in double precision;
               svd: everything in double precision, the oracle (default: eigen)
  cluster      base vectors whose singular values lie within this ratio count as one subspace (default: 0.001)
  modules      parts of names of the matrices to measure, separated by commas (default: all linear layers of blocks)
  embeddings   true: embeddings too (default: false)
  heads        true: output matrices and classifiers too (default: false)
  checkpoints  true: the kept checkpoints of each run too, a row set per step (default: false)
  controls     false: leave the null controls out (default: true)
  draws        of each random control (default: 20)
  spectra      true: also write all singular values of W0, W and the change (default: false)
  similarity   write |cos| of the first n tuned with the first n base left vectors, and the principal angles between
               the spans of n on both sides; whole: of all (default: 0, none)
  quantised    nf4, fp4 or int8: the base was quantised so before the adapter was trained; runs know it themselves
  vocabulary   false: compare the blocks of models whose vocabularies or tied heads differ (default: true)
  seed         of the null controls (default: 0)
  out          folder for the tables (default: analysis/ in the run's folder, and there a folder
               named after modules= where some are chosen; must be given with base= and tuned=)
  cache        folder for decompositions (default: spectra/ in the cache folder)
  device       cpu or cuda (default: cuda where there is one)
  jobs         processes to share the matrices among (default: one a core, of 50 each at least; 1 with cuda)
"""
ALGORITHMS = ("eigen", "svd")
WITHDRAWN = "is withdrawn: its proofs rested on constants that measurements exceed; eigen gives measured bounds"
DEVICES = ("cpu", "cuda")
QUANTISED = ("nf4", "fp4", "int8")


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    runs: tuple[str, ...] = ()
    base: str | None = None
    tuned: str | None = None
    k: int = 10
    eps: float = 0.5
    algorithm: str = "eigen"
    cluster: float = 1e-3
    modules: tuple[str, ...] = ()
    embeddings: bool = False
    heads: bool = False
    checkpoints: bool = False
    controls: bool = True
    draws: int = 20
    spectra: bool = False
    similarity: int | Literal["whole"] = 0
    """How many vectors."""
    quantised: str | None = None
    vocabulary: bool = True
    seed: int = 0
    out: str | None = None
    cache: str | None = None
    device: str | None = None
    jobs: int | None = None

    def __post_init__(self) -> None:
        require(self.k >= 1, "k", self.k, "must be at least 1")
        require(0 < self.eps < 1, "eps", self.eps, "must be above 0 and below 1")
        require(0 <= self.cluster < 1, "cluster", self.cluster, "must be at least 0 and below 1")
        require(self.draws >= 1, "draws", self.draws, "must be at least 1")
        require(self.algorithm != "certified", "algorithm", "certified", WITHDRAWN)
        require(self.jobs is None or self.jobs >= 1, "jobs", self.jobs, "must be at least 1")
        require(self.seed >= 0, "seed", self.seed, "must be at least 0")
        require(self.similarity == "whole" or self.similarity >= 0, "similarity", self.similarity, "must be at least 0")
        for key, allowed in (("algorithm", ALGORITHMS), ("device", DEVICES), ("quantised", QUANTISED)):
            require_choice(key, getattr(self, key), allowed)
        self._check_models()

    def _check_models(self) -> None:
        one, other = ("base", "tuned") if self.base is None else ("tuned", "base")
        both = (self.base is None) == (self.tuned is None)
        require(both, one, "", f"must be given together with {other}=")
        require(
            bool(self.runs) or self.base is not None,
            "runs",
            "",
            "give run folders, or base= and tuned=; --help shows all",
        )
        require(not (self.runs and self.base), "base", self.base, "cannot be combined with run folders")
        require(self.base is None or self.out is not None, "out", "", "must be given: the folder for the tables")
        require(not (self.runs and self.quantised), "quantised", self.quantised, "is known from a run's record")
        for run in self.runs:
            require(expanded(run).is_dir(), "run", run, "there is no such folder")


def work(settings: Settings) -> bool:
    """Measure everything the settings name, one model at a time; return whether none failed."""
    from analysis.spectra.intruders.command import measure_job
    from analysis.spectra.intruders.sources import jobs

    failed = False
    for job in jobs(settings):
        if job.reason is not None:
            print(f"{job.name}: {'' if job.failed else 'n/a: '}{job.reason}")
            failed |= job.failed
        else:
            measure_job(job, settings)
    return not failed


COMMAND = Command("intruders", USAGE, Settings, work, "tables that were complete stay")

if __name__ == "__main__":
    COMMAND.main()
