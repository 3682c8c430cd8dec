"""Subspaces of two runs' changes against scipy and closed forms."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.linalg
import small_runs
import torch
from rounding import OTHERWISE, assert_same_but_for_rounding, gap, vectors_bound

from analysis.intruders import Settings as Counting
from analysis.spectra import subspaces
from analysis.spectra.changes import Dense, LowRank
from analysis.spectra.intruders.sources import jobs
from analysis.spectra.measures import change_factors
from analysis.subspaces import COMMAND, Settings
from harness.errors import ConfigError, NotApplicable

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, data_folder: Path) -> dict[str, Path]:
    """Return three runs of one base and one method without a weight change."""
    methods = {
        "one": ["method=lora", "rank=4"],
        "other": ["method=lora", "rank=2", "seed=1"],
        "full": ["method=full"],
        "prompt": ["method=prompt", "method.length=3"],
    }
    model = [f"model.path={llama_folder}", *small_runs.task("classification", data_folder)]
    steps = ["train.max_steps=2", "train.learning_rate=0.01", "train.save_steps=0"]
    folder = tmp_path_factory.mktemp("runs")
    return {name: small_runs.run(folder, *model, *method, *steps)[0] for name, method in methods.items()}


def change(folder: Path, name: str) -> np.ndarray:
    (job,) = jobs(Counting(runs=(str(folder),)))
    return job.steps[-1][1].load(name)[-1].change.dense().double().numpy()


def rows(folder: Path, table: str, **values: Any) -> list[dict[str, Any]]:
    found = pq.read_table(folder / f"{table}.parquet").to_pylist()
    return [row for row in found if all(row[key] == value for key, value in values.items())]


RANKS = {"one": 4, "other": 2}
NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.slow
@pytest.mark.parametrize("second", ["other", "full"])
def test_similarities_and_angles_equal_scipy_s(runs, tmp_path, second, capsys):
    subspaces.run(Settings((str(runs["one"]), str(runs[second])), n=3, out=str(tmp_path)))
    first, other = (np.linalg.svd(change(runs[name], NAME)) for name in ("one", second))
    for side, a, b in (("u", first[0], other[0]), ("v", first[2].T, other[2].T)):
        for row in rows(tmp_path, "subspaces", matrix=NAME, side=side):
            i, j = row["i"], row["j"]
            expected = np.linalg.norm(a[:, :i].T @ b[:, :j]) ** 2 / min(i, j)
            assert row["phi"] == pytest.approx(expected, abs=1e-3)
            assert row["chance"] == pytest.approx(max(i, j) / len(a))
        count = 2 if second == "other" else 3
        angles = rows(tmp_path, "subspace_angles", matrix=NAME, side=side)
        expected = np.rad2deg(scipy.linalg.subspace_angles(a[:, :3], b[:, :count]))[::-1]
        assert [row["degrees"] for row in angles] == pytest.approx(expected.tolist(), abs=0.1)
    assert "mean φ(i, i) over 14 matrices" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_is_like_itself(runs, tmp_path):
    subspaces.run(Settings((str(runs["one"]), str(runs["one"])), n=4, out=str(tmp_path), modules=("q_proj",)))
    assert {row["matrix"] for row in rows(tmp_path, "subspaces")} == {NAME, NAME.replace(".0.", ".1.")}
    assert all(row["phi"] == pytest.approx(1) for row in rows(tmp_path, "subspaces", i=2, j=2))


def test_random_subspaces_are_as_alike_as_chance_says():
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(200):
        a, b = (torch.linalg.qr(torch.randn(40, 6, generator=generator))[0] for _ in range(2))
        found.append(subspaces_of(a, b))
    assert float(torch.stack(found).mean(0)[5, 2]) == pytest.approx(6 / 40, rel=0.05)


def subspaces_of(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    from analysis.spectra.measures import subspace_similarities

    return subspace_similarities(a, b)


def test_directions_that_are_rounding_are_left_out():
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(12, 2, generator=generator), torch.randn(2, 9, generator=generator)
    assert change_factors(LowRank(torch.cat([b, b], 1), torch.cat([a, a])), 4).u.shape == (12, 2)
    assert change_factors(Dense(b @ a), 4).v.shape == (9, 2)


@pytest.mark.slow
def test_another_pair_s_rows_stay(runs, tmp_path):
    for second in ("other", "full", "full"):
        subspaces.run(Settings((str(runs["one"]), str(runs[second])), n=2, out=str(tmp_path), modules=("q_proj",)))
    names = [row["other"] for row in rows(tmp_path, "subspaces")]
    assert {name: names.count(name) for name in names} == {runs["other"].name: 16, runs["full"].name: 16}


BAD = {
    "": "give two run folders",
    "a": "give two run folders",
    "a b": "run=a: holds no run",
    "a b n=0": "run=a: holds no run",
    "a b rank=2": "rank=2: no such option",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_arguments_are_named(text):
    with pytest.raises(ConfigError, match=BAD[text]):
        COMMAND.parse(text.split())


@pytest.mark.slow
def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path, gpt2_folder, data_folder):
    with pytest.raises(NotApplicable, match="n/a: prompt tuning"):
        subspaces.run(Settings((str(runs["one"]), str(runs["prompt"]))))
    model = [f"model.path={gpt2_folder}", *small_runs.task("classification", data_folder)]
    gpt2, _ = small_runs.run(tmp_path, *model, "method=lora", "rank=2", "train.max_steps=1")
    with pytest.raises(ConfigError, match="changed no matrix that"):
        subspaces.run(Settings((str(runs["one"]), str(gpt2))))


@pytest.mark.slow
def test_the_command_line(runs, tmp_path):
    """Two processes of one give the rows of one: but for rounding, whose part in a projection is at most twice that."""
    asked = [str(runs["one"]), str(runs["other"]), "modules=k_proj"]
    subspaces.run(COMMAND.parse([*asked, "jobs=1", f"out={tmp_path / '1'}"]))
    command = [sys.executable, "-W", "error", "-m", "analysis.subspaces", *asked, "jobs=2", f"out={tmp_path / '2'}"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | OTHERWISE)
    names = [NAME.replace("q_proj", "k_proj").replace(".0.", f".{layer}.") for layer in (0, 1)]
    spectra = [np.linalg.svd(change(runs[run], name))[1][:rank] for name in names for run, rank in RANKS.items()]
    cosine = 2 * vectors_bound(max(gap([*sigmas, 0.0]) for sigmas in spectra))
    assert cosine < 0.1, cosine  # else nothing would be held
    for table in ("subspaces", "subspace_angles"):
        assert_same_but_for_rounding(rows(tmp_path / "1", table), rows(tmp_path / "2", table), cosine)
