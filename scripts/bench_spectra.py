"""How fast intruder dimensions are counted, against two full float32 decompositions a matrix.

    python scripts/bench_spectra.py [large] [growth] [model] [pair] [repeats=2] [threads=N] [first=N] [spectra=N]
                                    [draws=20]

All but `pair` are measured in turns in one process with the same number of threads, so that what else the machine
does falls on each alike; the ratios are of the best of the turns. `large` are 4096 × 4096 matrices of the first N of
four spectra, `growth` 1024 to 4096, `model` the first N of SmolLM2's 210 matrices, `pair` one matrix of each shape of
Llama 2 7B, multiplied: what a 7B pair takes. All unless some are named. The targets stand beside the figures. Beside a
further run stand 20 draws of each random control, and how many vectors double precision had to decide.
"""

from __future__ import annotations

import gc
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


from analysis.records.naming import Role, role_of
from analysis.spectra.changes import LowRank
from analysis.spectra.checkpoints import Checkpoint
from analysis.spectra.intruders.controls import Null, drawn
from analysis.spectra.intruders.eigen import Eigen
from analysis.spectra.intruders.sources import model_folder
from analysis.spectra.measures import low_rank_svd
from analysis.spectra.processes import one_blas_thread

OPTIONS = dict(argument.split("=") for argument in sys.argv[1:] if "=" in argument)
K, EPS, WIDTH, RANK, DRAWS = 10, 0.5, 1e-3, 8, int(OPTIONS.get("draws", 20))
SPECTRA = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
TARGETS = {
    "large": {"first run": 5.0, "further runs": 100.0},
    "model": {"first run": 5.0, "further runs": 15.0},
}
MODELS = {
    "7B": (32, [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]),
}
"""Layers, and the matrices of one: Llama 2."""
HALF_HOUR = 1800.0
"""Target of a 7B pair's first run, in seconds on two cores."""
Case = tuple[torch.Tensor, LowRank]


def spectrum_like(s: torch.Tensor, n: int) -> torch.Tensor:
    """Return n singular values along the curve of a real matrix's, so that the size changes and the shape does not."""
    at = torch.linspace(0, len(s) - 1, n)
    low = at.floor().long().clamp(max=len(s) - 2)
    return s[low] + (s[low + 1] - s[low]) * (at - low)


def matrix_of(s: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a matrix of these singular values with random singular vectors."""
    n = len(s)
    u, v = (torch.linalg.qr(torch.randn(n, n, generator=generator))[0] for _ in range(2))
    return (u * s) @ v.T


def update_of(w: torch.Tensor, generator: torch.Generator, share: float = 0.3) -> LowRank:
    """Return a random rank-8 change of `share` of the base's norm: some tuned vectors are intruders, some are none."""
    b, a = torch.randn(w.shape[0], RANK, generator=generator), torch.randn(RANK, w.shape[1], generator=generator)
    change = LowRank(b, a)
    return LowRank(b * (share * float(w.norm()) / change.squared_norm() ** 0.5), a)


def resident_peak(reset: bool) -> int:
    """Return the peak resident bytes since the last reset, or start counting anew; 0 where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def timed(work: Callable[[], Any]) -> tuple[float, Any, int]:
    """Return seconds, result and peak resident bytes above those before."""
    gc.collect()
    before = resident_peak(reset=True)
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found, max(0, resident_peak(reset=False) - before)


def ways(case: Case, cache: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield each way's name and work; the first run fills the cache that the further one finds."""
    w, change = case
    yield "two SVDs", lambda: [torch.linalg.svd(one, full_matrices=False) for one in (w, w + change.dense())]
    yield "first run", lambda: Eigen(w, K, EPS, WIDTH, cache).detect(change)
    yield "further runs", lambda: Eigen(w, K, EPS, WIDTH, cache).detect(change)
    null = Null(
        Eigen(w, K, EPS, WIDTH, cache).sigma,
        max(w.shape),
        low_rank_svd(change.b.double(), change.a.double()).s,
        RANK,
    )
    yield f"{DRAWS} draws of each", lambda: drawn(null, "bench", DRAWS, K, WIDTH)


def measure(cases: list[Case], repeats: int) -> tuple[dict[str, float], dict[str, int]]:
    """Return the best seconds of each way over all cases, and its peak memory; the ways take turns case by case."""
    turns: list[dict[str, float]] = []
    memory: dict[str, int] = {}
    for _ in range(repeats):
        seconds: dict[str, float] = {}
        decided = []
        with tempfile.TemporaryDirectory() as cache:
            for case in cases:
                for name, work in ways(case, Path(cache)):
                    took, found, peak = timed(work)
                    seconds[name] = seconds.get(name, 0.0) + took
                    memory[name] = max(memory.get(name, 0), peak)
                    if name == "further runs":
                        decided += [*found.left.decided, *found.right.decided]
        print(f"  vectors that double precision decided: {decided.count('double')} of {len(decided)}")
        turns.append(seconds)
    return {name: min(turn[name] for turn in turns) for name in turns[0]}, memory


def report(title: str, seconds: dict[str, float], memory: dict[str, int], targets: dict[str, float]) -> None:
    print(f"\n{title}")
    print(f"  {'':22}{'seconds':>9}{'ratio':>9}{'target':>9}{'peak MiB':>10}")
    for name, took in seconds.items():
        ratio, target = seconds["two SVDs"] / took, targets.get(name)
        mark = "" if target is None else f"{target:.0f}x"
        verdict = "" if target is None else ("  reached" if ratio >= target else "  NOT reached")
        print(f"  {name:22}{took:9.3f}{ratio:8.1f}x{mark:>9}{memory[name] / 2**20:10.0f}{verdict}")


def curve(folder: Path, kind: str) -> torch.Tensor:
    """Return the singular values of one of SmolLM2's matrices, of the middle layer."""
    return torch.linalg.svdvals(Checkpoint(folder, "base").tensor(f"model.layers.15.{kind}.weight"))


def case_of(s: torch.Tensor, n: int) -> Case:
    generator = torch.Generator().manual_seed(n)
    w = matrix_of(spectrum_like(s, n), generator)
    return w, update_of(w, generator)


def large(folder: Path, repeats: int, count: int) -> None:
    """Measure matrices of several spectra apart and add them up."""
    total: dict[str, float] = {}
    most: dict[str, int] = {}
    for kind in SPECTRA[:count]:
        seconds, memory = measure([case_of(curve(folder, kind), 4096)], repeats)
        report(f"4096 x 4096, the spectrum of SmolLM2's {kind}", seconds, memory, {})
        total = {name: total.get(name, 0.0) + took for name, took in seconds.items()}
        most = {name: max(most.get(name, 0), peak) for name, peak in memory.items()}
    report(f"4096 x 4096, these {count} together", total, most, TARGETS["large"])


def growth(folder: Path, repeats: int) -> None:
    print("\nseconds by size, and the power of n by which they grow from the size before")
    before: dict[str, float] = {}
    for n in (1024, 2048, 4096):
        seconds, _ = measure([case_of(curve(folder, SPECTRA[-1]), n)], repeats)
        powers = {name: f" (n^{_power(before[name], took):.1f})" if before else "" for name, took in seconds.items()}
        print(f"  {n:5}: " + ", ".join(f"{name} {took:.3f}{powers[name]}" for name, took in seconds.items()))
        before = seconds


def _power(smaller: float, larger: float) -> float:
    return float(torch.log2(torch.tensor(larger / smaller)))


def model(folder: Path, repeats: int, count: int) -> None:
    checkpoint, generator = Checkpoint(folder, "base"), torch.Generator().manual_seed(0)
    names = [name for name, shape in checkpoint.shapes.items() if role_of(name, shape) is Role.linear][:count]
    bases = [checkpoint.tensor(name) for name in names]
    seconds, memory = measure([(w, update_of(w, generator)) for w in bases], repeats)
    report(f"SmolLM2's {len(names)} matrices", seconds, memory, TARGETS["model"])


def pair(repeats: int) -> None:
    """Print what a whole model's first and further run take, from one matrix of each shape."""
    print("\na pair of models, one matrix of each shape measured")
    for name, (layers, shapes) in MODELS.items():
        total = dict.fromkeys(("first run", "further runs"), 0.0)
        for shape in dict.fromkeys(shapes):
            generator = torch.Generator().manual_seed(shape[0])
            w = torch.randn(shape, generator=generator) * torch.linspace(2, 0.5, shape[1])
            case, took = (w, update_of(w, generator)), dict.fromkeys(total, float("inf"))
            for _ in range(repeats):
                with tempfile.TemporaryDirectory() as cache:
                    for way, work in itertools.islice(ways(case, Path(cache)), 1, 3):
                        took[way] = min(took[way], timed(work)[0])
            print(f"  {shape[0]} x {shape[1]}: " + ", ".join(f"{way} {took[way]:.2f} s" for way in took))
            total = {way: total[way] + layers * shapes.count(shape) * took[way] for way in total}
        verdict = "reached" if total["first run"] < HALF_HOUR else "NOT reached"
        minutes = ", ".join(f"{way} {seconds / 60:.1f} min" for way, seconds in total.items())
        print(f"  {name}: {minutes}; target of the first: {HALF_HOUR / 60:.0f} min, {verdict}")


def main() -> None:
    parts = [argument for argument in sys.argv[1:] if "=" not in argument] or ["large", "growth", "model", "pair"]
    repeats = int(OPTIONS.get("repeats", 2))
    if "threads" in OPTIONS:
        torch.set_num_threads(int(OPTIONS["threads"]))
    folder = model_folder("smollm2_135m")
    one_blas_thread()  # as in `analysis.intruders`; torch keeps its threads
    print(
        f"{torch.get_num_threads()} threads, k = {K}, eps = {EPS}, a change of rank {RANK}, both sides, "
        f"best of {repeats}"
    )
    if "large" in parts:
        large(folder, repeats, int(OPTIONS.get("spectra", len(SPECTRA))))
    if "growth" in parts:
        growth(folder, repeats)
    if "pair" in parts:
        pair(repeats)
    if "model" in parts:
        model(folder, repeats, int(OPTIONS.get("first", 10**6)))


if __name__ == "__main__":
    main()
